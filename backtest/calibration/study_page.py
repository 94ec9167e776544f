"""One HTML page in the style of the reports, with a finding first: of studies that are no run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import backtest.report
from backtest.report import theme
from backtest.report.section import Section


_TEMPLATES = [
    Path(__file__).parent / "templates",
    Path(backtest.report.__path__[0]) / "templates",
]


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
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("study.html.j2").render(
        kind=kind,
        first=first,
        title=title,
        facts=facts,
        sentence=sentence,
        points=points,
        caveats=caveats,
        sections=sections,
        pictures={name: Markup(svg) for name, svg in pictures.items()},
        config=json.dumps(config, indent=2, ensure_ascii=False),
        palette=[(theme.variable(c), c, dark) for c, dark in theme.DARK.items()],
        footer=footer,
    )
