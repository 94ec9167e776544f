"""Builds the documentation in MkDocs' strict mode; its pages may load nothing from elsewhere."""

import os
import re
import sys
from pathlib import Path


# MkDocs' theme announces its successor otherwise.
os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import MkDocsException

from backtest.paths import PROJECT_ROOT


LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)",
    re.IGNORECASE,
)
"""Addresses that a page loads; links that a reader may follow are not among them."""


def loaded_from_elsewhere(site: Path) -> list[str]:
    """File and address of everything that a built page would ask a network for."""
    return [
        f"{file.relative_to(site)}: {address}"
        for file in sorted(site.rglob("*.html"))
        for address in LOADED.findall(file.read_text(encoding="utf-8"))
    ]


def main() -> int:
    """Build into ``build/site``; 1 where a page is wrong."""
    config = load_config(str(PROJECT_ROOT / "mkdocs.yml"), strict=True)
    try:
        build(config)
    except MkDocsException as error:
        print(error, file=sys.stderr)
        return 1
    outside = loaded_from_elsewhere(Path(config.site_dir))
    print(
        "\n".join(outside) or f"site: {config.site_dir}", file=sys.stderr if outside else sys.stdout
    )
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
