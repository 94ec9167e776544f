"""Notebooks stay short, use public names only, and are committed without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import backtest
from backtest.paths import PROJECT_ROOT


NOTEBOOKS = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))
MOST_LINES = 10
"""Lines of code in a cell, without imports, blank lines and magics."""


def code_cells(notebook: Path) -> list[Any]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def source(cell: Any) -> str:
    return "".join(line for line in cell["source"] if not line.startswith("%"))


def trees(notebook: Path) -> list[ast.Module]:
    return [ast.parse(source(cell)) for cell in code_cells(notebook)]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 7


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_public_names(notebook: Path):
    nodes = [node for tree in trees(notebook) for node in ast.walk(tree)]
    wrong = [
        ast.unparse(n)
        for n in nodes
        if isinstance(n, ast.ImportFrom)
        and str(n.module).partition(".")[0] in ("backtest", "kernels")
    ]
    imported = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    wrong += [name for name in imported if name.startswith(("backtest.", "kernels"))]
    used = {
        n.attr
        for n in nodes
        if isinstance(n, ast.Attribute)
        and isinstance(n.value, ast.Name)
        and n.value.id == "backtest"
    }
    assert not wrong
    assert used
    assert used <= set(backtest.__all__)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_hold_one_idea(notebook: Path):
    for cell in code_cells(notebook):
        lines = [line for line in source(cell).splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(("import ", "from ", "#"))]
        assert len(lines) <= MOST_LINES, "\n".join(lines)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(notebook: Path):
    assert code_cells(notebook)
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_begins_with_a_question_and_ends_with_a_finding(notebook: Path):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first, last = ("".join(cells[k]["source"]) for k in (0, -1))
    assert first.startswith("# ")
    assert "**Question.**" in first
    assert "**Data.**" in first
    assert "## Finding" in last
