"""The report's HTML: the templates beside this file, which escape whatever they show."""

import base64
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape


def render(template: str, **shown: Any) -> str:
    """A template of this folder, filled in."""
    return ENVIRONMENT.get_template(template).render(shown)


def marked(text: str) -> Markup:
    """``**x**`` as bold x, and an interval ``[x, y]`` with its mark on one line."""
    whole = re.sub(r"\[[^\]]+\]( [†▲▼])?", r'<span class="interval">\g<0></span>', str(escape(text)))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", whole))


def data_url(content: bytes, kind: str) -> str:
    """An image as an address that holds the image itself, so that the page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
ENVIRONMENT.filters |= {"marked": marked, "data_url": data_url}
