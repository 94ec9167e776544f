"""Pages made of templates: what every one of them shares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from . import text, theme


_SHARED = Path(__file__).parent / "templates"


def page(template: str, pictures: Mapping[str, str], folder: Path = _SHARED, **content: Any) -> str:
    """A page as HTML; names are escaped, and one that a template asks for must be there.

    Args:
        template: file name.
        pictures: inline SVG of each figure by name.
        folder: where the template is; those of the report are found beside.
        content: what it shows.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["long"] = text.has_long_word
    return environment.get_template(template).render(
        pictures={name: Markup(svg) for name, svg in pictures.items()},
        palette=[(theme.variable(c), c, dark) for c, dark in theme.DARK.items()],
        **content,
    )
