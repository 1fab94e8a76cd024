"""Extension of griffe that shows the default of a dataclass field as a value."""

from __future__ import annotations

import re
from typing import Any

import griffe

FACTORY = re.compile(r"\(lambda: (.*)\)\(\)")


class Defaults(griffe.Extension):
    """Extension that replaces calls of default factories by their results, such as `[]` for `list()`."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Replace the defaults in the signature of a dataclass."""
        init = cls.members.get("__init__")
        if not isinstance(init, griffe.Function):
            return
        for parameter in init.parameters:
            text = str(parameter.default)
            if match := FACTORY.fullmatch(text):
                parameter.default = match[1]
            elif text in ("list()", "dict()"):
                parameter.default = {"list()": "[]", "dict()": "{}"}[text]
