"""Pages that are one file and need no server: their templates, style, script and data.

Texts come from outside. Jinja2 escapes each, invisible characters are spelled out, and a page
forbids the browser to run or load anything but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

SHARED = "page_parts"
"""Folder of what all pages have in common: `head.html`."""


def render_page(
    folder: str,
    data: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """`page.html` of a folder of this package, with its `page.css` and `page.js`.

    `data` is what the script reads; templates see `values`, `style` and `script`.
    """
    templates = _templates(folder)
    templates.filters.update(filters or {})
    # `<` never appears in the data, so no text in it can end the script element.
    text = json.dumps(data, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    inline = {
        name: Markup(templates.loader.get_source(templates, file)[0])
        for name, file in (("style", "page.css"), ("script", "page.js"))
    }
    return templates.get_template("page.html").render(data=Markup(text), **inline, **values)


@cache
def _templates(folder: str) -> Environment:
    package = "auffusion_cli.evaluation"
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package, each) for each in (folder, SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_spelled_out,
    )
    templates.filters["csp_hash"] = csp_hash
    return templates


def csp_hash(inline: str) -> Markup:
    """The source of a Content-Security-Policy that allows exactly this inline script or style."""
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")


def data_url(media_type: str, content: bytes) -> str:
    """An address that is the file itself."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _spelled_out(value: object) -> object:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return shown(value) if is_text else value


def shown(value: str) -> str:
    """`value` with what is invisible or turns text around spelled out: \\u202e.

    The joiners and marks that emoji and some scripts need stay.
    """
    return "".join(
        c if c.isprintable() or c in "\u200c\u200d\u200e\u200f" else f"\\u{ord(c):04x}"
        for c in value
    )
