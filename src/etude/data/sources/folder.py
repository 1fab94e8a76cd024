"""A folder per class: every sound file below `path/rock/` is rock."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from etude.data.collection import NO_GROUP, Collection, expanded, label, merged, slug
from etude.errors import DataError

log = logging.getLogger(__name__)
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".au", ".wma", ".mp4")
EXPECTED = "expected is a folder for each class with sound files in it, such as rock/song.mp3 and jazz/song.mp3"


def collection(path: str, classes: Mapping[str, list[str]] | None = None) -> Collection:
    """The sound files of a folder whose subfolders are classes.

    Args:
        path: The folder. Each direct subfolder is a class; its files lie at any depth. Hidden ones are left out.
        classes: By new name, the subfolders that it stands for; files of those that none names are left out.

    Returns:
        The collection. An id is the path from the folder on, without suffix unless two files differ in nothing else.

    Raises:
        DataError: There is no such folder, or it has fewer than two classes.
    """
    import pandas as pd

    home = expanded(path)
    if not home.is_dir():
        raise DataError(f"{home}: there is no such folder; {EXPECTED}")
    names = sorted(folder.name for folder in home.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not names:
        raise DataError(f"{home}: has no subfolders; {EXPECTED}")
    found = {name: _sounds(home / name) for name in names}
    if empty := [name for name in names if not found[name]]:
        log.warning("%s: no sound files in %s; left out", home, ", ".join(empty))
    if loose := sum(_is_sound(file) for file in home.iterdir()):
        log.warning("%s: %d sound files beside the folders belong to no class; left out", home, loose)
    files = [file.relative_to(home) for name in names for file in found[name]]
    if strange := [file for file in files if not _is_text(file)]:
        said = str(strange[0]).encode("utf-8", "backslashreplace").decode()
        log.warning("%s: %d names are not UTF-8 (%s); left out, rename them", home, len(strange), said)
        files = [file for file in files if _is_text(file)]
    if not files:
        raise DataError(f"{home}: has no sound files in its {len(names)} subfolders; {EXPECTED}")
    rows = {"id": _ids(files), "path": [str(home / file) for file in files], "group": None}
    table = pd.DataFrame({**rows, "genre": [file.parts[0] for file in files]})
    before = {str(name): int(count) for name, count in table["genre"].value_counts().items()}
    table["genre"] = merged(table["genre"], classes)
    if dropped := int(table["genre"].isna().sum()):
        log.info("%s: %d clips are in no class of data.source.classes; left out", home, dropped)
        table = table[table["genre"].notna()].reset_index(drop=True)
    target = label(table["genre"])
    if len(target["classes"]) < 2:
        raise DataError(f"{home}: has the single class {target['classes'][0]!r}, nothing to tell apart; {EXPECTED}")
    title = f"{home.resolve().name}: {len(table)} clips in {len(target['classes'])} classes"
    return Collection(
        name=slug(home.resolve().name),
        title=title,
        table=table,
        targets={"genre": target},
        card=f"# {title}\n\nSound files, a folder per class. Their artists and licences are not known.\n",
        note=NO_GROUP,
        extra={"before": {"genre": before}} if classes else {},
    ).check()


def _is_sound(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")


def _is_text(file: Path) -> bool:
    """Whether a name can stand in a table; a file system may hold any bytes."""
    try:
        return bool(str(file).encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _sounds(folder: Path) -> list[Path]:
    """Sound files at any depth, in the same order everywhere; none that is hidden or in a hidden folder."""
    return sorted(
        file
        for file in folder.rglob("*")
        if _is_sound(file) and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _ids(files: list[Path]) -> list[str]:
    """Paths without suffix; with it where two files would share an id."""
    whole = {file.as_posix() for file in files}
    count = Counter(file.with_suffix("").as_posix() for file in files)
    return [
        file.as_posix() if count[short] > 1 or short in whole else short
        for file in files
        for short in [file.with_suffix("").as_posix()]
    ]
