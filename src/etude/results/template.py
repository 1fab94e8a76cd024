"""What the templates of all pages share: escaping, and how numbers and words are written."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from etude.results import text

if TYPE_CHECKING:
    from jinja2 import Template


@lru_cache  # its compiling takes a quarter of a second
def template(name: str) -> Template:
    """A template of this package by its file name; what is put into it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.results"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    names = ("number", "ends", "duration", "capital", "sentence", "excludes_zero")
    environment.filters |= {name: getattr(text, name) for name in names}
    environment.globals |= {"plural": text.plural}
    return environment.get_template(name)
