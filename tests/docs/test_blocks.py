"""Every command and code block of the documentation runs, page after page in one folder.

``sh`` runs in a shell with `pmstress` on its path; the ``python`` blocks between two of them are
one program; ``toml`` and ``json`` with a title become the file of that name, without one they must
parse. ``text`` is read, not run. What cannot run says why in its first line: ``sh no-run="..."``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from backtest.paths import PROJECT_ROOT


PAGES = ("getting-started", "concepts", "cookbook", "data-in", "scaling", "validation", "limits")
"""In reading order: later pages use what earlier ones made."""
RUN = ("sh", "python", "toml", "json")
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 600


class Block(NamedTuple):
    """A fenced block: its language, what it is called, why it does not run, its text."""

    language: str
    title: str
    no_run: str
    body: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (PROJECT_ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = []
    for fence in FENCE.finditer(text):
        language, _, rest = fence["info"].strip().partition(" ")
        named = dict(re.findall(r'([\w-]+)="([^"]*)"', rest))
        title, why = named.get("title", ""), named.get("no-run", "")
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(language, title, why, fence["body"], line))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a reader: the repository's configurations and the command."""
    root = tmp_path_factory.mktemp("reader")
    shutil.copytree(PROJECT_ROOT / "configs", root / "configs")
    (root / "bin").mkdir()
    command = root / "bin" / "pmstress"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m backtest "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return root


def ran(words: list[str], folder: Path, where: str) -> None:
    # The programs of the tests' many devices are others than those of the notebooks.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{PROJECT_ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{where}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def written(block: Block, folder: Path) -> None:
    parse: Callable[[str], object] = tomllib.loads if block.language == "toml" else json.loads
    assert parse(block.body)
    if block.title:
        (folder / block.title).write_text(block.body, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page: str, folder: Path):
    program = ""
    for block in blocks(page):
        where = f"docs/{page}.md:{block.line}"
        if block.no_run or block.language == "text":
            continue
        if block.language == "sh":
            # What the Python blocks so far made is there for the command.
            program = flushed(program, folder, where)
            ran(["bash", "-euo", "pipefail", "-c", block.body], folder, where)
        elif block.language == "python":
            program += block.body
        else:
            written(block, folder)
    assert flushed(program, folder, f"docs/{page}.md") == ""


def flushed(program: str, folder: Path, where: str) -> str:
    """Runs the Python blocks that have gathered; later ones begin anew."""
    if program:
        ran([sys.executable, "-W", "error::UserWarning", "-c", program], folder, where)
    return ""


def test_no_page_is_left_out():
    written_by_hand = {path.stem for path in (PROJECT_ROOT / "docs").glob("*.md")}
    assert written_by_hand == {*PAGES, "index"}
    assert not blocks("index")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str):
    wrong = [b.line for b in blocks(page) if b.language not in (*RUN, "text")]
    assert not wrong, f"docs/{page}.md, lines {wrong}: allowed: {', '.join(RUN)}, text"


def test_blocks_that_do_not_run_are_few_and_say_why():
    found = [b for page in PAGES for b in blocks(page) if b.no_run]
    assert all(len(b.no_run.split()) > 2 for b in found)
    run = [b for page in PAGES for b in blocks(page) if b.language in ("sh", "python")]
    assert len(found) < len(run) / 3
