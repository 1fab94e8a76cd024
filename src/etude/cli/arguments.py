"""Types of arguments and options that several commands share, and parsers of lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from etude.config.compose import conf_dir, list_groups

Device = Literal["auto", "cpu", "cuda"]
Split = Literal["test", "val"]


def expand_path(value: str) -> Path:
    """Return a path in which `~` and `~name` are replaced with the user's home, if the user exists.

    Raises:
        BadParameter: The path is empty. It would name the current folder.
    """
    if not value:
        raise typer.BadParameter("the path is empty")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def exists(argument: str) -> bool:
    """Return whether an argument is the path of an existing file or folder."""
    try:
        return bool(argument) and expand_path(argument).exists()
    except (OSError, ValueError):
        return False


def split_list(values: list[str] | None) -> list[str]:
    """Return the items of a repeatable option whose values can also be separated by commas.

    A value that is the path of an existing file is one item, even if it contains commas.

    Raises:
        BadParameter: An item is empty.
    """
    items = [item.strip() for value in values or () for item in ([value] if exists(value) else value.split(","))]
    if "" in items:
        raise typer.BadParameter("an item of the list is empty; remove the comma or give a value")
    return list(dict.fromkeys(items))


def greater_than_zero(value: float | None) -> float | None:
    """Return None or a finite number that is greater than 0; raise BadParameter otherwise."""
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value:g} is not a number greater than 0")
    return value


def one_of_each(*choices: str) -> Callable[[list[str] | None], list[str]]:
    """Return a callback that accepts some of the choices, as `split_list` does, and raises BadParameter otherwise."""

    def callback(values: list[str] | None) -> list[str]:
        selected = split_list(values)
        if unknown := [item for item in selected if item not in choices]:
            raise typer.BadParameter(f"{unknown[0]!r} is not one of {', '.join(choices)}")
        return selected

    return callback


def completer(*choices: str) -> Callable[[str], list[str]]:
    """Return a function that completes the last item of a comma-separated list of choices in a shell."""

    def complete(incomplete: str) -> list[str]:
        given, comma, last = incomplete.rpartition(",")
        return [given + comma + choice for choice in choices if choice.startswith(last)]

    return complete


def out_option(default: str) -> Any:
    """Return the option `--out`, with a description of its default."""
    return typer.Option("--out", parser=expand_path, metavar="FOLDER", help="Output folder.", show_default=default)


def format_option(help: str, *choices: str) -> Any:
    """Return the option `--format`, which takes some of the choices."""
    callback, names = one_of_each(*choices), ",".join(choices)
    return typer.Option("--format", callback=callback, autocompletion=completer(*choices), metavar=names, help=help)


def complete_override(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a config group or one of its options in a shell, such as `backbone=` and `backbone=ast`."""
    groups: dict[str, list[str]] = {}
    for group, options in list_groups([conf_dir()]).items():
        top, _, rest = group.partition("/")
        if top in ("experiment", "sweep") and rest:  # their options are in folders
            groups.setdefault(top, []).extend(f"{rest}/{option}" for option in options)
        else:
            groups.setdefault(group, []).extend(options)
    given = context.params.get("overrides") or []
    if given[-1:] == ["="] and len(given) > 1:  # bash splits words at the equals sign
        return groups.get(given[-2], [])
    if "=" not in incomplete:
        return [f"{group}=" for group in groups]
    group, _, values = incomplete.partition("=")
    prefix = f"{group}={values[: values.rfind(',') + 1]}"
    return [prefix + option for option in groups.get(group, [])]


Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder or checkpoint.", parser=expand_path, show_default=False)
]
Folders = Annotated[
    list[Path],
    typer.Argument(metavar="FOLDER", help="Run folders, or the folder of a sweep.", parser=expand_path),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and messages on standard error.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, metavar="N", help="Processes that decode audio.", show_default="one per core"),
]
