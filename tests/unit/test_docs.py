"""The documents name what is there, and everything that is there is named."""

import hashlib
import re
import tomllib

import pytest

from backtest.cli import COMMANDS
from backtest.fetch.config import FetchConfig
from backtest.ingest.config import IngestConfig
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT, real_data_root
from backtest.schema import TABLES


README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DATA_README = (PROJECT_ROOT / "data" / "README.md").read_text(encoding="utf-8")
TODAY = PROJECT_ROOT / "configs" / "params" / "okx-merged-2025-01-21.toml"
DATA = real_data_root()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"`pmstress {command}" in README


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_named_files_exist(document: str) -> None:
    pattern = r"(?<![\w./-])((?:configs|notebooks|data|scripts|tests|backtest|kernels)/[\w./-]*\w)"
    names = set(re.findall(pattern, document))
    assert names
    missing = [name for name in names if not any(PROJECT_ROOT.glob(name))]
    assert not missing


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_documented(table: str) -> None:
    (row,) = [line for line in DATA_README.splitlines() if line.startswith(f"| `{table}`")]
    assert [c.name for c in TABLES[table].columns if f"`{c.name}`" not in row] == []


def test_the_readme_counts_the_labels_right() -> None:
    labels = [leaf.label for leaf in load_parameter_set(TODAY).leaves()]
    for label in "SPDA":
        assert re.search(rf"\| `{label}` \|.*\| {labels.count(label)} \|", README)
    assert f"{labels.count('A')} of the {len(labels)} entries" in README


def test_mappings_in_the_documents_are_valid() -> None:
    text = (PROJECT_ROOT / "docs" / "data-in.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        content = tomllib.loads(block)
        kind = IngestConfig if "ingest" in content else FetchConfig
        assert kind.model_validate(*content.values()).source


@pytest.mark.skipif(DATA is None, reason="no real market history (PMSTRESS_DATA)")
def test_the_manifest_lists_the_recorded_files() -> None:
    assert DATA is not None
    text = (PROJECT_ROOT / "data" / "MANIFEST.toml").read_text(encoding="utf-8")
    files = tomllib.loads(text)["file"]
    assert files
    for file in files:
        content = (DATA / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file["name"]
