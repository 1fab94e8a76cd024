"""Parser of key=value options, shared by all commands.

Every command declares a table of its options: the key, the field to set, and the function that parses the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.errors import UserError

Reader = Callable[[str], Any]  # converts the text of a value; raises ValueError with the requirement
Options = Mapping[str, tuple[str, Reader]]  # field and reader of each key
EMPTY = "empty value; remove the option or give it a value"


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Return whether the arguments of a command contain `--help` or `-h`."""
    return "--help" in arguments or "-h" in arguments


def split_options(arguments: Sequence[str], options: Options, empty: str = "") -> tuple[list[str], dict[str, Any]]:
    """Separate the options of a command from its other arguments.

    Args:
        arguments: Arguments of the command.
        options: Options of the command. If an option is repeated, its last value is used. Values of the readers
            `comma_separated` and `repeatable` are concatenated instead.
        empty: Error message for an option without a value. Without a message, the reader is called with "".

    Returns:
        The other arguments in their order, including names of existing files; values of the options by field.

    Raises:
        UserError: An option has an invalid value.
    """
    others: list[str] = []
    values: dict[str, Any] = {}
    for argument in arguments:
        key, _, text = argument.lstrip("+").partition("=")  # a plus of Hydra's grammar has no meaning here
        if is_name(argument) or key not in options:
            others.append(argument)
            continue
        if empty and not text:
            raise UserError(f"{argument}: {empty}")
        field, reader = options[key]
        try:
            value = reader(text)
        except ValueError as error:
            raise UserError(f"{argument}: {error}") from error
        is_list = reader in (comma_separated, repeatable)
        values[field] = values[field] + value if is_list and field in values else value
    return others, values


def read_options(
    arguments: Sequence[str], options: Options, expected: str = "is not"
) -> tuple[list[str], dict[str, Any]]:
    """Return the names and the options of a command that has no other arguments.

    Args:
        arguments: Arguments of the command.
        options: Options of the command, as for `split_options`.
        expected: Beginning of the error message for any other argument, such as "is neither a file nor".

    Returns:
        Names in their order, without `=` or equal to an existing file; values of the options by field.

    Raises:
        UserError: An argument is neither a name nor an option, or an option has an invalid value.
    """
    names, values = split_options(arguments, options, EMPTY)
    if unknown := [argument for argument in names if not is_name(argument)]:
        keys = ", ".join(f"{key}=" for key in options)
        raise UserError(f"{unknown[0]}: {expected} one of {keys}; --help shows their values")
    return names, values


def split_pair(argument: str) -> tuple[str, str]:
    """Return the key and the value of an argument, without a plus of Hydra's grammar before the key.

    Raises:
        UserError: The argument has no equals sign.
    """
    key, equals, value = argument.lstrip("+").partition("=")
    if not equals:
        raise UserError(f"{argument}: is not of the form name=value; --help shows examples")
    return key, value


def is_name(argument: str) -> bool:
    """Return whether an argument is a name and not an option. A name has no `=`, or is the path of an existing file."""
    return "=" not in argument or exists(argument)


def path(value: str) -> Path:
    """Return a path in which `~` and `~name` are replaced with the user's home, if the user exists."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def exists(argument: str) -> bool:
    """Return whether an argument is the path of an existing file or folder."""
    try:
        return path(argument).exists()
    except (OSError, ValueError):
        return False


def boolean(value: str) -> bool:
    """Return the value of `true` or `false`."""
    if value.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return value.lower() == "true"


def integer(minimum: int = 1, maximum: int | None = None) -> Reader:
    """Return a reader of integers.

    Args:
        minimum: Smallest allowed value.
        maximum: Largest allowed value; None for no limit.
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
        parsed = float(value)
    except ValueError:
        parsed = 0.0
    if not 0 < parsed < float("inf"):
        raise ValueError("must be a number greater than 0")
    return parsed


def one_of(*choices: str) -> Reader:
    """Return a reader of one choice."""

    def reader(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return value

    return reader


def several_of(kind: str, *choices: str) -> Reader:
    """Return a reader of one or more choices that are separated by commas, without repetitions.

    Args:
        kind: Noun for the choices in the error message, such as "format".
        choices: Allowed values.
    """

    def reader(value: str) -> list[str]:
        selected = list(dict.fromkeys(value.split(",")))
        if unknown := [choice for choice in selected if choice not in choices]:
            raise ValueError(f"there is no {kind} {unknown[0]!r}; available: {', '.join(choices)}")
        return selected

    return reader


def comma_separated(value: str) -> list[str]:
    """Return a list of the texts between commas, or of the complete value if it is the path of a file."""
    return [value] if exists(value) else value.split(",")


def repeatable(value: str) -> list[str]:
    """Return a list with the value, for an option that can be repeated."""
    return [value]
