"""Files as the venues publish them, small, and a configuration that reads them."""

import io
import zipfile
from pathlib import Path

import pandas as pd

from backtest.ingest.build import IngestReport, ingest
from backtest.ingest.config import load_ingest_config


HOUR_MS = 3_600_000
START = pd.Timestamp("2024-08-05T00:00Z")
START_MS = START.value // 1_000_000
SECOND_MS = START_MS + HOUR_MS
KLINE = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
    "taker_buy_quote_volume,ignore"
)


def kline_lines(closes: list[float], first_ms: int = START_MS, micros: bool = False) -> list[str]:
    """Hourly bars; low and high are 1 % around the close."""
    scale = 1000 if micros else 1
    lines: list[str] = []
    for i, close in enumerate(closes):
        opened = (first_ms + i * HOUR_MS) * scale
        closed = opened + HOUR_MS * scale - 1
        lines.append(f"{opened},{close},{close * 1.01},{close * 0.99},{close},1,{closed},1,1,1,1,0")
    return lines


def write_zip(path: Path, lines: list[str]) -> Path:
    """A zip of one CSV file of the same name, as Binance packs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.with_suffix(".csv").name, "\n".join(lines) + "\n")
    return path


def write_text(path: Path, text: str) -> Path:
    """A text file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False)
    return buffer.getvalue()


def binance_files(root: Path) -> None:
    """Spot, mark and trade bars of BTC with funding, five hours in two files that overlap."""
    closes = [60_000.0, 60_500.0, 59_000.0, 58_000.0, 58_500.0]
    data = root / "data"
    write_zip(data / "spot/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-08.zip", kline_lines(closes))
    marks = [c + 10.0 for c in closes]
    folder = data / "futures/um/monthly/markPriceKlines/BTCUSDT/1h"
    write_zip(folder / "BTCUSDT-1h-2024-07.zip", [KLINE, *kline_lines(marks[:3])])
    write_zip(folder / "BTCUSDT-1h-2024-08.zip", [KLINE, *kline_lines(marks[1:], SECOND_MS)])
    trades = [KLINE, *kline_lines([c + 99.0 for c in [*closes, 58_600.0]])]
    write_zip(data / "futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-08.zip", trades)
    funding = [
        "calc_time,funding_interval_hours,last_funding_rate",
        f"{START_MS + 3 * HOUR_MS + 7},8,0.00010000",
    ]
    folder = data / "futures/um/monthly/fundingRate/BTCUSDT"
    write_zip(folder / "BTCUSDT-fundingRate-2024-08.zip", funding)


BINANCE = """
[ingest]
interval = "1h"
[ingest.assumed_usd]
USDT = 0.999
[[ingest.source]]
kind = "binance"
files = ["data/**/*.zip"]
"""


def make(folder: Path, text: str, out: Path | None = None) -> IngestReport:
    """Ingest by a configuration that lies in the folder."""
    file = write_text(folder / "ingest.toml", text)
    return ingest(load_ingest_config(file), folder, out or folder / "dataset")
