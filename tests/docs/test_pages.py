"""Pages made of the code hold all of it, and what is written by hand names what there is."""

import re
from pathlib import Path

import numpy as np
import pytest

import backtest
from backtest.cli import COMMANDS
from backtest.params import load_parameter_set
from backtest.paths import PROJECT_ROOT
from backtest.schema import TABLES
from kernels.models.okx import MODEL
from scripts.docs import pages
from scripts.docs.charge_figures import FIGURES
from scripts.docs.hook import inside, on_page_markdown
from scripts.docs.site import loaded_from_elsewhere


CONCEPTS = (PROJECT_ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
BY_HAND = sorted((PROJECT_ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str):
    page = pages.cli_page()
    _, _, text = page.partition(f"## pmstress {command}\n\n```text\n")
    assert f"Usage: pmstress {command}" in text.partition("```")[0]


@pytest.mark.parametrize("model", pages.SETS)
def test_every_number_of_a_set_is_there(model: str):
    page = pages.parameter_page()
    missing = [
        row.key
        for row in load_parameter_set(pages.SETS[model]).leaves()
        if f"| `{row.key}` | {pages._value(row.value)} |" not in page
    ]
    assert not missing


def test_keys_of_a_section_say_what_is_allowed():
    page = pages.parameter_page()
    assert '| `mode` | `frozen`, `actual` | `"frozen"` |' in page
    assert "| `accounts` | whole number ≥ 1 ≤ 10000000 |" in page
    assert "Buckets at once; 1 = all in this process." in page


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_there(table: str):
    page = pages.dataset_page()
    _, _, below = page.partition(f"### {table}")
    section = below.partition("\n### ")[0]
    assert [c.name for c in TABLES[table].columns if f"| `{c.name}` |" not in section] == []


def test_every_public_function_is_there():
    page = pages.python_page()
    names = [n for n in backtest.__all__ if callable(getattr(backtest, n))]
    assert [n for n in names if f"\n## {n}\n" not in page] == []
    assert "### RunResults.lazy" in page


@pytest.mark.parametrize("charge", MODEL.charges)
def test_every_charge_is_explained_with_a_picture(charge: str):
    assert re.search(rf"^## {charge.upper()}:", CONCEPTS, re.MULTILINE)
    assert f"(figures/{charge}.png)" in CONCEPTS
    (axes,) = FIGURES[charge]().axes
    heights = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    assert heights.max() > heights.min()


def test_numbers_are_filled_in_and_links_stay_inside():
    filled = on_page_markdown("<!-- numbers of mr6 -->")
    assert "| `mr6.factor` |" in filled
    assert inside("[x](../data/README.md) [y](../configs/ingest)") == "[x](dataset.md) y"
    assert on_page_markdown('```sh no-run="a reason"\nls\n```') == "```sh\nls\n```"
    with pytest.raises(ValueError, match="no parameters below 'mr0'"):
        on_page_markdown("<!-- numbers of mr0 -->")


@pytest.mark.parametrize("page", BY_HAND, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    pattern = r"(?<![\w./-])((?:configs|notebooks|data|scripts|tests|backtest|kernels)/[\w./-]*\w)"
    missing = [name for name in re.findall(pattern, text) if not any(PROJECT_ROOT.glob(name))]
    assert not missing


def test_what_a_page_would_load_from_elsewhere_is_found(tmp_path: Path):
    near = (
        '<img src="figures/mr1.png"><a href="https://example.org">a link</a><link href="//x.y/z">'
    )
    (tmp_path / "page.html").write_text(f'{near}<script src="https://example.org/a.js"></script>')
    found = ["page.html: //x.y/z", "page.html: https://example.org/a.js"]
    assert loaded_from_elsewhere(tmp_path) == found


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", (PROJECT_ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted([*(page.name for page in BY_HAND), *pages.PAGES])
