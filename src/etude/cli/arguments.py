"""Types of arguments and options that several commands share, and parsers of lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from etude.config.compose import conf_dir, list_groups
from etude.errors import UserError
from etude.files.safe_read import WEIGHTS_NAME, is_export
from etude.runs.folder import BEST, CHECKPOINTS, CONFIG, LAST, MULTIRUN

if TYPE_CHECKING:
    from etude.inference.model import Pretrained

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


@dataclass(frozen=True)
class NetworkArguments:
    """Positional arguments of a command that reads a run or a pretrained backbone.

    Args:
        run: Run folder or checkpoint. None with a backbone.
        backbone: Name of the backbone.
        overrides: Overrides for the backbone.
        inputs: Audio files, arrays, folders and lists.
        further_runs: Runs after the first, before the inputs.
    """

    run: Path | None
    backbone: str | None = None
    overrides: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    further_runs: list[Path] = field(default_factory=list)

    def source(self) -> Path | Pretrained:
        """Return the run or the pretrained backbone."""
        from etude.inference.model import Pretrained  # heavy: numpy

        if self.run is not None:
            return self.run
        assert self.backbone is not None
        return Pretrained(self.backbone, self.overrides)


def split_arguments(
    command: str, arguments: Sequence[str] | None, backbone: str | None, inputs: bool = True, several: bool = False
) -> NetworkArguments:
    """Divide positional arguments into a run or overrides, and inputs.

    Args:
        command: Name of the command.
        arguments: Positional arguments. The first is a run unless a backbone is given.
        backbone: Value of `--backbone`.
        inputs: Whether the command has inputs.
        several: Whether the command takes several runs.

    Raises:
        UserError: The run and the backbone are both given or both missing, there are no inputs or unexpected ones,
            overrides are given for a run, or an input is a run.
    """
    given = list(arguments or ())
    keys = r"[A-Za-z_][\w/.@-]*" if backbone is not None else r"(backbone|feature)\b[\w/.]*"
    overrides = [argument for argument in given if re.match(rf"[+~]*{keys}=", argument) and not exists(argument)]
    others = [argument for argument in given if argument not in overrides]
    if "" in others:
        raise UserError(f"{command}: an argument is empty; give a path")
    if invalid := next((argument for argument in others if "\0" in argument), ""):
        raise UserError(f"{invalid!r}: contains a null character, which no path can; give a path")
    first = expand_path(others[0]) if others else None
    is_run = first is not None and _is_run(first)
    hint = f"etude {command} --help lists the arguments"
    if backbone is not None:
        if is_run:
            raise UserError(f"{first}: is a run, but --backbone {backbone} selects another network; remove one of them")
        if not others and inputs:
            raise UserError(f"Missing argument 'INPUT'; {hint}")
        if others and not inputs:
            raise UserError(f"{others[0]}: unexpected argument beside --backbone {backbone}; {hint}")
        return NetworkArguments(None, backbone, overrides, others)
    if overrides:
        raise UserError(f"{overrides[0]}: is an override; it needs --backbone NAME, because a run has its own config")
    if first is None:
        raise UserError(f"Missing argument 'RUN'; {hint}")
    if not inputs:
        if len(others) > 1:
            raise UserError(f"{others[1]}: unexpected argument; {hint}")
        return NetworkArguments(first)
    runs = [first, *map(expand_path, takewhile(lambda argument: _is_run(expand_path(argument)), others[1:]))]
    if run := next((other for other in others[len(runs) :] if _is_run(expand_path(other))), ""):
        raise UserError(f"{run}: is a run; give all runs before the audio files")
    if sweep := next((other for other in others[1:] if _contains(expand_path(other), MULTIRUN)), ""):
        raise UserError(f"{sweep}: is the folder of a sweep; name single runs before the audio files, or its ensemble")
    if len(runs) > 1 and not several:
        raise UserError(f"{runs[1]}: is a run; etude {command} takes one run")
    paths = [path.resolve() for path in runs]
    if repeated := [run for run, path in zip(runs, paths, strict=True) if paths.count(path) > 1]:
        raise UserError(f"{repeated[0]}: is given twice; name each run once")
    if len(others) == len(runs):
        if first.exists() and not first.is_dir() and not is_run:
            raise UserError(f"{first}: is not a run; give a run before it, or --backbone NAME")
        raise UserError(f"Missing argument 'INPUT'; {hint}")
    return NetworkArguments(first, inputs=others[len(runs) :], further_runs=runs[1:])


def _is_run(path: Path) -> bool:
    """Return whether a path is a checkpoint, a run folder or an exported network."""
    checkpoints = (f"{CHECKPOINTS}/{name}" for name in (BEST, LAST))
    return (
        path.suffix in RUN_SUFFIXES
        or _contains(path, CONFIG, *checkpoints)
        or (_contains(path, WEIGHTS_NAME) and is_export(path))
    )


def _contains(folder: Path, *names: str) -> bool:
    """Return whether a folder contains one of the files."""
    try:
        return any((folder / name).is_file() for name in names)
    except (OSError, ValueError):  # such as a name that is too long
        return False


RUN_SUFFIXES = (".ckpt", ".safetensors")  # of checkpoints and exports
RunAndInputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN INPUT",
        help="Run folder or checkpoint, then audio files or arrays, folders, and lists of files.",
        show_default=False,
    ),
]
RunsAndInputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN INPUT",
        help="Run folders or checkpoints, then audio files or arrays, folders, and lists of files.",
        show_default=False,
    ),
]
RunOnly = Annotated[
    list[str] | None, typer.Argument(metavar="RUN", help="Run folder or checkpoint.", show_default=False)
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        metavar="NAME",
        help="Pretrained backbone instead of RUN. Its settings are further arguments, such as backbone.weights=FILE.",
        show_default="the network of RUN",
        autocompletion=lambda incomplete: [
            name for name in list_groups([conf_dir()])["backbone"] if name.startswith(incomplete)
        ],
    ),
]
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
    typer.Option("--workers", min=1, metavar="N", help="Processes that read audio files.", show_default="one per core"),
]
Packs = Annotated[
    Path,
    typer.Option(
        "--packs",
        parser=expand_path,
        metavar="FOLDER",
        help="Folder of packs, in which the embeddings are stored.",
        show_default="outputs/packs",
    ),
]
