"""Pages that need no other file: their templates share the frame, the style sheet and some parts."""

from __future__ import annotations

from typing import Any

import jinja2

_PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader("finetune_trainer.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)


def render_page(template: str, /, **values: Any) -> str:
    """A page. Texts from outside are escaped, and the page loads nothing from other addresses.

    Args:
        template: the file of its template, below this package.
        values: what the template shows.
    """
    return encodable(_PAGES.get_template(template).render(**values))


def encodable(text: str) -> str:
    """The text, with a question mark for each half of a surrogate pair, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
