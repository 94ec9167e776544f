"""Sets of different margin models in one run: each with its own charges."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from backtest.cli.report import app
from backtest.errors import DataError
from backtest.report import frames, quality, tables
from backtest.report.account_stats import account_stats
from backtest.report.build import build_report
from backtest.report.comparison import comparison
from backtest.report.figures import figure_break_even, figure_charges_of_liquidated
from backtest.report.figures_time import figure_charges_by_time
from backtest.report.frequency import by_time
from backtest.report.reader import Results
from backtest.report.rules import NINE_CHARGES, Levels
from backtest.report.sections_margin import charge_section
from backtest.report.terminal import group_rows, summary_rows
from backtest.report.verdict import caveats
from tests.unit.backtest.fake_models import BYBIT, OKX
from tests.unit.backtest.fake_results import Spec, write_results
from tests.unit.backtest.test_report_page import check_page


SPEC = Spec(
    sets=("venue A", "venue B"),
    scales=({}, {}),
    models={"venue B": "bybit"},
    accounts=400,
    times=60,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("run"), SPEC)


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return Results(folder)


def test_charges_are_those_of_the_manifest(results: Results):
    assert [c.name for c in results.charges("venue A")] == list(OKX.labels)
    assert [c.label for c in results.charges("venue B")] == list(BYBIT.labels.values())
    assert results.alike(results.set_names) == [["venue A"], ["venue B"]]
    assert results.levels("venue B").safe == pytest.approx(1 / 0.9)
    shorts = {c.name: c.short for n in results.set_names for c in results.charges(n)}
    assert shorts["mr1"] == "MR1"
    assert shorts["max_loss"] == "Stress grid loss"


def test_older_manifest_has_nine_charges(tmp_path: Path):
    old = Results(write_results(tmp_path, Spec(accounts=60, times=12, old_manifest=True)))
    assert old.charges("today") == NINE_CHARGES
    assert old.levels("today") == Levels(warning=3.0, safe=1.1)
    assert [c.label for c in NINE_CHARGES] == list(OKX.labels.values())
    build_report(tmp_path)
    assert "ends above 110" in check_page(tmp_path).text


def test_levels_that_were_not_saved_are_not_guessed(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["parameter_sets"][1]["levels"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert Results(tmp_path).levels("venue B") == Levels()
    build_report(tmp_path)
    assert "ends above the safe level of its parameter set" in check_page(tmp_path).text


@pytest.mark.parametrize(
    "charges", [[], "mr1", [{"label": "x"}], [{"name": "a"}, {"name": "a"}], [3]]
)
def test_unusable_charges_are_refused(folder: Path, tmp_path: Path, charges: object):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parameter_sets"][0]["charges"] = charges
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json: key 'charges' must"):
        Results(tmp_path).charges("venue A")


def test_all_files_of_a_folder_at_once(results: Results):
    for table in (results.accounts(), results.events(), results.summary()):
        sides = {n: frames.rows(table, table["parameter_set"] == n) for n in results.set_names}
        own = "worst_mr1" if "worst_mr1" in table else "mr1"
        foreign = "worst_max_loss" if "worst_max_loss" in table else "max_loss"
        assert np.isnan(frames.numbers(sides["venue A"], foreign)).all()
        assert np.isnan(frames.numbers(sides["venue B"], own)).all()
        assert np.nansum(frames.numbers(sides["venue B"], foreign)) > 0


def test_columns_that_only_one_set_has(results: Results):
    got = results.accounts(["account_id", "worst_max_loss"], "venue B")
    assert len(got) == SPEC.accounts
    assert results.events(["max_loss"], "venue B", "no such event").empty
    with pytest.raises(DataError, match="missing column worst_max_loss"):
        results.accounts(["worst_max_loss"], "venue A")
    with pytest.raises(DataError, match="missing column worst_max_loss"):
        results.accounts(["worst_max_loss"])
    with pytest.raises(DataError, match="missing column nonsense"):
        results.events(["nonsense"], "venue B", "no such event")


def test_files_without_statistics(folder: Path, tmp_path: Path):
    """Which set a file holds is then read from its rows."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "accounts").glob("*.parquet"):
        table = pq.read_table(file)
        at = table.schema.get_field_index("parameter_set")
        plain = table.set_column(at, "parameter_set", table["parameter_set"].cast(pa.string()))
        pq.write_table(plain, file, write_statistics=False)
    got = Results(tmp_path).accounts(["worst_max_loss"], "venue B")
    assert len(got) == SPEC.accounts


def test_stats_hold_the_set_s_own_charges(results: Results):
    for name, model in (("venue A", OKX), ("venue B", BYBIT)):
        stats = account_stats(results, name)
        assert stats.names == model.charges
        assert set(stats.theta_counts) == set(model.charges)
        assert set(stats.charges) == {"worst_total_mmr", *(f"worst_{c}" for c in model.charges)}
    stats = account_stats(results, "venue B")
    added = sum(stats.charges[f"worst_{c}"] for c in BYBIT.charges)
    assert added == pytest.approx(stats.charges["worst_total_mmr"], rel=1e-12)
    assert "mr1" not in by_time(results, "venue B")
    assert all(c.holds for c in quality.checks(results))


def test_tables_never_fill_a_foreign_charge_with_zero(results: Results):
    split = tables.charge_table(results)
    for name, model in (("venue A", OKX), ("venue B", BYBIT)):
        mine = frames.rows(split, split["parameter_set"] == name)
        assert mine["charge"].tolist() == list(model.labels)
        assert mine["label"].tolist() == list(model.labels.values())
    path = tables.charge_path_table(results)
    other = frames.rows(path, path["parameter_set"] == "venue B")
    assert np.isnan(frames.numbers(other, "mr1")).all()
    assert np.isfinite(frames.numbers(other, "max_loss")).all()
    triggers = tables.trigger_table(results)
    labels = {**OKX.labels, **BYBIT.labels}
    assert [labels[c] for c in triggers["binding_charge"]] == triggers["label"].tolist()


def test_charges_stand_in_panels_of_their_own(results: Results):
    for draw in (figure_charges_of_liquidated, figure_charges_by_time, figure_break_even):
        panels = [a for a in draw(results).axes if a.axison]
        assert len(panels) == 2
        for axis, model in zip(panels, (OKX, BYBIT), strict=True):
            legend = axis.get_legend()
            assert legend is not None
            drawn = [t.get_text() for t in legend.get_texts()]
            assert [d for d in drawn if d != "total MMR"] == list(model.labels.values())


def test_equal_charges_share_one_panel(tmp_path: Path):
    results = Results(write_results(tmp_path, Spec(accounts=60, times=12)))
    (axis,) = figure_charges_of_liquidated(results).axes
    assert axis.get_legend() is None
    assert charge_section(results).tables[0].caption == "Charges of liquidated accounts, summed"


def test_how_charges_add_up_stands_under_the_figures(results: Results):
    for picture in charge_section(results).pictures:
        assert picture.caption.endswith(f"“venue A”: {OKX.how}.")


def test_page_of_two_models(folder: Path):
    build_report(folder)
    page = check_page(folder)
    assert "Sets whose charges differ are shown apart" in page.text
    assert "ends above 110" in page.text
    assert "111.1" in page.text
    frame = pd.read_csv(folder / "report" / "tables" / "charges_by_time.csv")
    assert np.isnan(frames.numbers(frame, "max_loss")).sum() == SPEC.times


def test_caveat_names_the_models(results: Results):
    notes = " ".join(caveats(results))
    assert "different charges (model okx: “venue A”; bybit: “venue B”)" in notes


def test_comparison_works_across_models(folder: Path, results: Results):
    found = comparison(results, "venue A", "venue B")
    assert {len(r) for r in summary_rows(found["sets"])} == {3}
    assert group_rows(found["groups"])
    pairs = found["pairs"]
    both = account_stats(results, "venue B").liquidated
    assert pairs["both"] + pairs["only_challenger"] == both
    command = ["compare", str(folder), "--champion", "venue B", "--challenger", "venue A"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "Average maintenance margin" in shown.output
