"""Audio files and arrays of frames to predict, given as files, folders and lists."""

from __future__ import annotations

import codecs
import logging
import os
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from etude.data.audio_files import ARRAY_SUFFIXES, SUFFIXES, SkippedItem, as_text, clip_id, is_array, search_audio_files
from etude.data.collection import log_skipped_items
from etude.data.sources import patreco
from etude.data.table_reader import read_table
from etude.errors import UserError, missing_path
from etude.evaluation.formatting import printable
from etude.files import ownership
from etude.files.journal import file_stamp
from etude.files.safe_read import expand_path, locate_listed
from etude.runs.folder import RunFolder, find_weights, run_of

if TYPE_CHECKING:
    from etude.inference.windows import WindowPlan

log = logging.getLogger(__name__)
NO_ARRAYS = "arrays are predicted by runs that were trained on ready frames, such as those of data=patreco"
MAX_SHARD_BYTES = 1 << 23  # on disk, of the files that a worker predicts before it sends the results
MAX_RATIO = 4  # between the median lengths of arrays and of training clips, without a warning
TABLES, PLAYLISTS = (".csv", ".tsv", ".xlsx", ".parquet"), (".txt", ".m3u", ".m3u8")


@dataclass
class InputFiles:
    """Audio files and arrays of the inputs, before it is known which of them a network takes.

    Args:
        groups: Folder and its files, or None and files that are given by their names, in order.
    """

    groups: list[tuple[Path | None, list[Path]]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of files."""
        return len({path for _, files in self.groups for path in files})

    def select(self, arrays: bool) -> list[Path]:
        """Return the files for a network, each once, in order.

        A folder with files of both kinds is read as one kind, and the others are logged as skipped.

        Args:
            arrays: Whether the network takes arrays. It then takes the arrays of a folder that has any.

        Raises:
            UserError: A folder, or all files together, have arrays only, and the network takes none.
        """
        selected: dict[Path, None] = {}
        for folder, files in self.groups:
            kept = files
            if folder is not None:
                wanted = arrays and any(map(is_array, files))
                kept = [path for path in files if is_array(path) == wanted]
                reason = "audio file in a folder of arrays" if wanted else "array of frames in a folder of audio files"
                skipped = [path for path in files if is_array(path) != wanted]
                if not kept:
                    raise UserError(f"{folder}: has arrays of frames ({len(files)}) and no audio files; {NO_ARRAYS}")
                log_skipped_items(folder, [SkippedItem(as_text(path.relative_to(folder)), reason) for path in skipped])
            selected |= dict.fromkeys(kept)
        if not arrays and all(map(is_array, selected)):
            raise UserError(f"{next(iter(selected))}: is an array of frames; {NO_ARRAYS}")
        return list(selected)


def find_audio_files(inputs: Iterable[str | Path]) -> list[Path]:
    """Return the audio files in the given files, folders and lists, each once, in order. See `find_files`."""
    return find_files(inputs).select(arrays=False)


def find_files(inputs: Iterable[str | Path]) -> InputFiles:
    """Return the audio files and arrays in the given files, folders and lists.

    Args:
        inputs: Files, folders (searched at any depth) and lists. A list is a table (.csv, .tsv, .xlsx, .parquet) with a
            column `path`, or a text file (.txt, .m3u, .m3u8) with a path or a `file:` URL on each line. Relative paths
            in a list start at its folder. Files in a list may be missing; prediction reports them one by one.

    Raises:
        UserError: An input is missing, a list cannot be read, or there are no files.
    """
    result = InputFiles()
    for value in inputs:
        if not isinstance(value, str | os.PathLike):
            raise UserError(f"audio must be given as paths, got {type(value).__name__}; write samples to a file first")
        if not str(value):  # Path("") is the current folder
            raise UserError("an input is empty; give the path of an audio file, a folder or a list")
        path = expand_path(str(value))
        if path.is_dir():
            inside, skipped_items = search_audio_files(path, arrays=True)
            log_skipped_items(path, skipped_items)
            if not inside:
                raise UserError(f"{path}: has no audio files; looked for {', '.join((*SUFFIXES, *ARRAY_SUFFIXES))}")
            result.groups.append((path, inside))
            continue
        if not path.is_file():
            raise UserError(missing_path(path, "audio file, folder or list"))
        inside = _read_list(path) if path.suffix.lower() in (*TABLES, *PLAYLISTS) else [path]
        result.groups.append((None, inside))
    if not result.groups:
        raise UserError("no audio files are given; add files, folders, or a list such as list.csv")
    return result


def sort_by_id(files: Sequence[Path], id_format: str | None, array_format: str = "{name}") -> dict[str, Path]:
    """Return the files by their ids in a table, sorted by the text before the first dot of their names.

    If all of these texts are whole numbers, they are sorted as numbers.

    Args:
        files: Audio files and arrays.
        id_format: Format of an id, with `{id}`, the text before the first dot, or `{name}`, the name of the file. None
            selects the name of an audio file, and `array_format` for an array.
        array_format: Default format of the id of an array.

    Raises:
        UserError: The format is invalid, or two files have the same id.
    """
    if id_format is not None:
        _check_id_format(id_format)
    numeric = all(_is_number(clip_id(path.name)) for path in files)
    ids: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: (int(clip_id(path.name)) if numeric else 0, clip_id(path.name), path)):
        template = (array_format if is_array(path) else "{name}") if id_format is None else id_format
        name = template.format(id=clip_id(as_text(path.name)), name=as_text(path.name))
        if name in ids:
            raise UserError(
                f"{as_text(ids[name])} and {as_text(path)} have the same id {name}; give one of them, or set another "
                "--id-format"
            )
        ids[name] = path
    return ids


def array_id_format(checkpoint: Path) -> str:
    """Return the default format of the ids of arrays, which is that of `data=patreco` for a run on this data."""
    run = RunFolder(run_of(checkpoint))
    source = f"{patreco.__name__}.{patreco.collection.__name__}"
    data = run.config.get("data") if run.config_path.is_file() else None
    nodes = [data.get("source")] if isinstance(data, dict) else []
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):  # the node of a union contains a node for each of its collections
            if node.get("_target_") == source:
                return patreco.ID_FORMAT
            nodes += node.values()
    return "{name}"


def check_id_table(path: Path, column: str) -> None:
    """Check before the prediction that a table of ids can be written, and that it replaces nothing but such a table.

    Args:
        path: Path of the table.
        column: Name of its first column.

    Raises:
        UserError: The path is not ours, is another table, such as a result of a run, or is not in a folder.
    """
    ownership.check_names(path.parent, [path.name])
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise UserError(f"--out {path}: {parent} is not a folder; choose another path")
    if path.is_file():
        with path.open("rb") as file:
            if not file.readline().startswith(f"{column},".encode()):
                raise UserError(f"--out {path}: exists and is not a table of ids; choose another name")


def check_no_arrays(files: Iterable[Path], option: str) -> None:
    """Check that an option that is only for audio files is not given for arrays.

    Raises:
        UserError: One of the files is an array.
    """
    if array := next(filter(is_array, files), None):
        raise UserError(f"{option}: is for audio files only, and {as_text(array)} is an array of frames")


def _is_number(text: str) -> bool:
    """Return whether a text is a whole number in ASCII digits."""
    return text.isascii() and text.isdigit()


def _check_id_format(id_format: str) -> None:
    """Check the format of ids.

    Raises:
        UserError: The format has other fields than `{id}` and `{name}`, or none of them.
    """
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(id_format)]
    except ValueError:  # a single brace
        fields = [("", "", "")]
    named = [entry for entry in fields if entry[0] is not None]
    if not named or any(entry not in (("id", "", None), ("name", "", None)) for entry in named):
        raise UserError(f"--id-format {id_format}: must contain {{id}} or {{name}} and no other field in braces")


def _read_list(path: Path) -> list[Path]:
    """Return the files of a list."""
    if path.suffix.lower() in TABLES:
        columns, locations = read_table(path)
        if "path" not in columns:
            content = f"its columns are {', '.join(columns)}" if columns else "it has no columns"
            raise UserError(f"{path}: has no column named 'path'; {content}; give the column of audio files this name")
        lines = columns["path"]
        empty = [location for location, line in zip(locations, lines, strict=True) if not line]
        log_skipped_items(
            path, [SkippedItem(location.removeprefix(f"{path}, "), "path is empty") for location in empty]
        )
    else:
        lines = [line.strip() for line in _read_playlist(path) if not line.lstrip().startswith("#")]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path}: lists no files; add a path per line or row")
    return [locate_listed(line, [path.parent, Path()]).path for line in lines]


def _read_playlist(path: Path) -> list[str]:
    """Return the lines of a playlist in UTF-8 or UTF-16, else in Windows-1252, which older players write.

    Raises:
        UserError: The file cannot be read, or is not text.
    """
    try:
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        elif b"\0" in data:
            raise ValueError("it is not text")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")  # five byte values are undefined
                log.warning("%s: is not UTF-8; it is read as Windows-1252", path)
        return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of paths ({error}); save it as UTF-8") from error


def warn_of_length(n_frames: float, plan: WindowPlan) -> None:
    """Log a warning if arrays have so many or so few frames that they are in another time unit than in training.

    Args:
        n_frames: Median number of frames of the arrays.
        plan: Window plan.
    """
    if not 1 / MAX_RATIO <= n_frames / plan.length <= MAX_RATIO:
        unit = "beat-synchronous" if plan.front.sync == "beat" else "not beat-synchronous"
        log.warning(
            "the arrays have %g frames in the median, and the clips of the run %d; check that the arrays are %s, as in "
            "training",
            n_frames, plan.length, unit,
        )  # fmt: skip


def divide_files(files: Sequence[Path], size: int, count: int) -> list[Sequence[Path]]:
    """Divide files into shards, in order. The last ones are smaller, so that all workers end at about the same time.

    Args:
        files: The files.
        size: Largest number of files of a shard. It has fewer if these are larger than MAX_SHARD_BYTES.
        count: Number of workers.
    """
    shards: list[Sequence[Path]] = []
    start = 0
    while start < len(files):
        last = min(len(files), start + max(1, min(size, (len(files) - start) // (2 * count))))
        end, n_bytes = start + 1, file_stamp(files[start])[0]
        while end < last and (n_bytes := n_bytes + file_stamp(files[end])[0]) <= MAX_SHARD_BYTES:
            end += 1
        shards.append(files[start:end])
        start = end
    return shards


def name_runs(runs: Sequence[Path]) -> list[str]:
    """Return the name of each run or checkpoint, with a number before all names if they are not distinct.

    Raises:
        UserError: A run has no weights.
    """
    for path in runs:
        find_weights(path)
    names = [path.resolve().name if path.is_dir() else path.resolve().stem for path in runs]
    distinct = len({name.casefold() for name in names}) == len(names)  # some systems ignore case in names
    return names if distinct else [f"{i}_{name}" for i, name in enumerate(names, 1)]


def print_run_name(name: str) -> None:
    """Print the name of one of several runs, above the summary of its predictions."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(f"\n{printable(name)}:", markup=False)
