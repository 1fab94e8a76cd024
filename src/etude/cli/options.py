"""Parser of key=value options, shared by all commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.errors import UserError

Read = Callable[[str], Any]  # a value as it was written to what it means; raises ValueError with what it must be
Settings = Mapping[str, tuple[str, Read]]  # by key: what it is called afterwards, and what reads it


def read(words: Sequence[str], known: Settings, otherwise: str = "is") -> tuple[list[str], dict[str, Any]]:
    """Tell names from settings.

    Args:
        words: Of the command.
        known: The settings. Of one that is said twice the last counts, and of one that is a list all.
        otherwise: What is said of a word that is none of them, such as "is no file, and".

    Returns:
        Names, which have no `=` or are there as files, in order; and settings that were said.

    Raises:
        UserError: A word is neither, or says something else than it may.
    """
    names: list[str] = []
    said: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or exists(word):
            names.append(word)
            continue
        if key in known and not value:
            raise UserError(f"{word}: says nothing; leave it out, or say what")
        if key not in known:
            keys = ", ".join(f"{one}=" for one in known)
            raise UserError(f"{word}: {otherwise} none of {keys}; --help shows what they take")
        name, reader = known[key]
        try:
            found = reader(value)
        except ValueError as error:
            raise UserError(f"{word}: {error}") from error
        said[name] = said[name] + found if isinstance(found, list) and reader in LISTS and name in said else found
    return names, said


def path(value: str) -> Path:
    """Return a file or folder; ~ is the user's home, and ~name stays as it is where there is no such user."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def exists(word: str) -> bool:
    """Return whether a word of a command is the path of something; what cannot be a path, as it is too long, is not."""
    try:
        return path(word).exists()
    except (OSError, ValueError):
        return False


def truth(value: str) -> bool:
    """True or false."""
    if value.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return value.lower() == "true"


def whole(least: int = 1, most: int | None = None) -> Read:
    """A reader of whole numbers."""

    def reader(value: str) -> int:
        if not value.isdecimal() or int(value) < least or (most is not None and int(value) > most):
            raise ValueError(
                f"must be a whole number {f'of at least {least}' if most is None else f'from {least} to {most}'}"
            )
        return int(value)

    return reader


def number(value: str) -> float:
    """A number."""
    try:
        return float(value)
    except ValueError as error:
        raise ValueError("must be a number") from error


def positive(value: str) -> float:
    """A number greater than 0."""
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError("must be a number greater than 0")
    return found


def one_of(*choices: str) -> Read:
    """A reader of one word among some."""

    def reader(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return value

    return reader


def several(what: str, *choices: str) -> Read:
    """A reader of words with commas between them, each once.

    Args:
        what: What they are, such as "format".
        choices: What there is.
    """

    def reader(value: str) -> list[str]:
        found = list(dict.fromkeys(value.split(",")))
        if unknown := [one for one in found if one not in choices]:
            raise ValueError(f"there is no {what} {unknown[0]!r}; there are {', '.join(choices)}")
        return found

    return reader


def listed(value: str) -> list[str]:
    """Words with commas between them, or one that is there as a file; said twice, all count."""
    return [value] if exists(value) else value.split(",")


def each(value: str) -> list[str]:
    """A word of its own; said twice, all count."""
    return [value]


LISTS = (listed, each)
