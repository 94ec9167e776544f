"""Hook of MkDocs: adds the pages and pictures that are made of the code, when the site is built."""

import re
from typing import Any

from mkdocs.structure.files import File

from backtest.report.theme import to_png
from scripts.docs.charge_figures import FIGURES
from scripts.docs.pages import PAGES, provenance


_OUTSIDE = {"data/README.md": "dataset.md"}
"""Files of the repository that are a page here."""


def on_files(files: Any, config: Any) -> Any:
    """Add generated pages and figures."""
    for name, write in PAGES.items():
        files.append(File.generated(config, name, content=inside(write())))
    for name, draw in FIGURES.items():
        files.append(File.generated(config, f"figures/{name}.png", content=to_png(draw())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Numbers where a page asks for them, links that stay within the site, plain fences."""
    filled = re.sub(r"<!-- numbers of (\w+) -->", lambda m: provenance(m[1]), markdown)
    return re.sub(r'^(```\w+) no-run="[^"]*"', r"\1", inside(filled), flags=re.MULTILINE)


def inside(markdown: str) -> str:
    """Links to files of the repository as pages of the site, else as their names."""

    def moved(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        page = _OUTSIDE.get(target)
        return f"[{text}]({page})" if page else text

    return re.sub(r"\[([^\]]+)\]\(\.\./([^)\s]+)\)", moved, markdown)
