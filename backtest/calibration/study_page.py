"""One HTML page in the style of the reports, with a finding first: of studies that are no run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backtest.report.section import Section
from backtest.report.template import page


_TEMPLATES = Path(__file__).parent / "templates"


def study_page(
    *,
    kind: str,
    first: str,
    title: str,
    facts: Sequence[tuple[str, str]],
    sentence: str,
    points: Sequence[tuple[str, str]],
    caveats: Sequence[str],
    sections: Sequence[Section],
    pictures: Mapping[str, str],
    config: Mapping[str, Any],
    footer: str,
) -> str:
    """The page as HTML.

    Args:
        kind: what kind of study it is.
        first: heading of the finding.
        title: name of the study.
        facts: named facts below the title.
        sentence: the finding in one sentence.
        points: what it rests on, by title.
        caveats: what the study does not show.
        sections: in reading order.
        pictures: inline SVG of each figure by name.
        config: the resolved configuration.
        footer: where the files are.
    """
    return page(
        "study.html.j2",
        pictures,
        _TEMPLATES,
        kind=kind,
        first=first,
        title=title,
        facts=facts,
        sentence=sentence,
        points=points,
        caveats=caveats,
        sections=sections,
        config=json.dumps(config, indent=2, ensure_ascii=False),
        footer=footer,
    )
