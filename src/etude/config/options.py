"""Parser of key=value options, shared by all commands.

Every command declares a table of its options: the key, the field that it sets, and the function that reads the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.errors import UserError

Reader = Callable[[str], Any]  # from the text of a value to the value; raises ValueError with what it must be
Options = Mapping[str, tuple[str, Reader]]  # by key: field and reader
EMPTY = "says nothing; leave it out, or say what"


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether the words of a command ask for its help."""
    return "--help" in words or "-h" in words


def split_options(words: Sequence[str], options: Options, empty: str = "") -> tuple[list[str], dict[str, Any]]:
    """Separate the options of a command from its other words.

    Args:
        words: Words of the command line.
        options: The options of the command. Of one that is repeated the last counts, and of `listed` and `each` all.
        empty: Error message for an option without a value; without it the reader gets the empty text.

    Returns:
        The other words in their order, including those that exist as files; values by field.

    Raises:
        UserError: An option has a wrong value.
    """
    others: list[str] = []
    values: dict[str, Any] = {}
    for word in words:
        key, _, text = word.lstrip("+").partition("=")  # a plus is Hydra's and changes nothing here
        if is_name(word) or key not in options:
            others.append(word)
            continue
        if empty and not text:
            raise UserError(f"{word}: {empty}")
        field, reader = options[key]
        try:
            value = reader(text)
        except ValueError as error:
            raise UserError(f"{word}: {error}") from error
        values[field] = values[field] + value if reader in (listed, each) and field in values else value
    return others, values


def read_options(words: Sequence[str], options: Options, otherwise: str = "is") -> tuple[list[str], dict[str, Any]]:
    """Return the names and the options among the words of a command that has no other words.

    Args:
        words: Words of the command line.
        options: The options of the command, as for `split_options`.
        otherwise: Beginning of the error message for any other word, such as "is no file, and".

    Returns:
        Names, which have no `=` or exist as files, in their order; values by field.

    Raises:
        UserError: A word is neither, or an option has a wrong value.
    """
    names, values = split_options(words, options, EMPTY)
    if unknown := [word for word in names if not is_name(word)]:
        keys = ", ".join(f"{key}=" for key in options)
        raise UserError(f"{unknown[0]}: {otherwise} none of {keys}; --help shows what they take")
    return names, values


def split_pair(word: str) -> tuple[str, str]:
    """Return the key and the value of a word, without the pluses of Hydra's grammar before the key.

    Raises:
        UserError: The word has no equals sign.
    """
    key, equals, value = word.lstrip("+").partition("=")
    if not equals:
        raise UserError(f"{word}: is not of the form name=value; --help shows some")
    return key, value


def is_name(word: str) -> bool:
    """Return whether a word is a name rather than an option; files and folders may have `=` in their names."""
    return "=" not in word or exists(word)


def path(value: str) -> Path:
    """Return a file or folder; ~ is the user's home, and ~name stays as it is where there is no such user."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def exists(word: str) -> bool:
    """Return whether a word is the path of a file or folder; a word that cannot be a path, as too long, is not."""
    try:
        return path(word).exists()
    except (OSError, ValueError):
        return False


def truth(value: str) -> bool:
    """Return the value of `true` or `false`."""
    if value.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return value.lower() == "true"


def whole(minimum: int = 1, maximum: int | None = None) -> Reader:
    """Return a reader of whole numbers.

    Args:
        minimum: The smallest.
        maximum: The largest; None for no limit.
    """
    limit = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def reader(value: str) -> int:
        if not value.isdecimal() or int(value) < minimum or (maximum is not None and int(value) > maximum):
            raise ValueError(f"must be a whole number {limit}")
        return int(value)

    return reader


def number(value: str) -> float:
    """Return a number."""
    try:
        return float(value)
    except ValueError as error:
        raise ValueError("must be a number") from error


def positive(value: str) -> float:
    """Return a finite number greater than 0."""
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError("must be a number greater than 0")
    return found


def one_of(*choices: str) -> Reader:
    """Return a reader of one word among some."""

    def reader(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return value

    return reader


def several(what: str, *choices: str) -> Reader:
    """Return a reader of words with commas between them, each once.

    Args:
        what: What they are, such as "format".
        choices: Words that are known.
    """

    def reader(value: str) -> list[str]:
        found = list(dict.fromkeys(value.split(",")))
        if unknown := [word for word in found if word not in choices]:
            raise ValueError(f"there is no {what} {unknown[0]!r}; there are {', '.join(choices)}")
        return found

    return reader


def listed(value: str) -> list[str]:
    """Return the words between commas, or one that exists as a file; repeated options add up."""
    return [value] if exists(value) else value.split(",")


def each(value: str) -> list[str]:
    """Return the value as a list of one; repeated options add up."""
    return [value]
