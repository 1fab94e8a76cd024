"""Text from data as Markdown shows it: as text, whatever marks or tags are in it."""

from __future__ import annotations

import re

MARKS = re.compile(r"([\\`*_\[\]|#~$])|^(?=[-+=])")  # anywhere; and what begins a list where a line begins


class Written(str):
    """Markdown that is meant as such."""


def escaped(value: object) -> str:
    """What is printed of a value; marks have no effect, tags are none, and a line is not broken."""
    if isinstance(value, Written):
        return value
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKS.sub(lambda found: f"\\{found[0]}", text)


def code(value: object) -> Written:
    """A value as code in a line; in a table too."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if len(marks) > 1 else ""
    return Written(f"{marks}{space}{text}{space}{marks}")


def fenced(text: str, language: str = "") -> Written:
    """Lines of code."""
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Written(f"{marks}{language}\n{text.strip(chr(10))}\n{marks}")
