"""Collections from a folder of audio files with a subfolder for each class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.data.audio_files import SkippedItem, as_text, is_text, list_other_files, search_audio_files
from etude.data.collection import (
    NO_GROUP,
    Collection,
    label_target,
    log_skipped_items,
    merge_classes,
    merged_names,
    slug,
)
from etude.errors import DataError, missing_path
from etude.files.safe_read import expand_path, to_nfc

log = logging.getLogger(__name__)
EXPECTED = "expected a folder for each class with audio files in it, such as rock/song.mp3 and jazz/song.mp3"


def collection(path: str, classes: Mapping[str, Any] | str | None = None) -> Collection:
    """Return the collection of a folder whose subfolders are classes.

    Args:
        path: The folder. Each direct subfolder is a class, with files at any depth. Links to folders are followed.
            Hidden files and folders are skipped.
        classes: Mapping from a new class to a subfolder or a list of subfolders. Files of subfolders that are not
            listed are skipped.

    Returns:
        The collection. The id of a clip is its path relative to the folder, without suffix unless two files differ only
        in the suffix.

    Raises:
        DataError: The folder does not exist, or it has fewer than two classes.
    """
    import pandas as pd

    home = expand_path(path)
    if not home.is_dir():
        raise DataError(f"{missing_path(home, 'folder')}; {EXPECTED}")
    try:
        folders = sorted((folder for folder in home.iterdir() if _is_folder(folder)), key=lambda folder: folder.name)
        skipped_items = list(list_other_files(home, "audio file is in no class folder"))
    except OSError as error:
        raise DataError(
            f"{home}: cannot be read ({error.strerror or error}); change its permissions or use another folder"
        ) from error
    names = [folder.name for folder in folders if not folder.name.startswith(".") and is_text(folder.name)]
    if not names:
        raise DataError(f"{home}: has no subfolders; {EXPECTED}")
    files: list[Path] = []
    for name in names:
        audio_files, skipped = search_audio_files(home / name, home)
        files += [file.relative_to(home) for file in audio_files]
        skipped_items += skipped
        if not audio_files:
            skipped_items.append(SkippedItem(as_text(name), "folder has no audio files"))
    if not files:
        log_skipped_items(home, skipped_items)
        raise DataError(f"{home}: has no audio files in its {len(names)} subfolders; {EXPECTED}")
    rows = {"id": _unique_ids(files), "path": [str(home / file) for file in files], "group": None}
    table = pd.DataFrame({**rows, "genre": [to_nfc(file.parts[0]) for file in files]})
    if duplicates := [name for name, count in Counter(map(to_nfc, names)).items() if count > 1]:
        log.warning("%s: two folders named %s in two Unicode forms are merged into one class", home, duplicates[0])
    before = {str(name): int(count) for name, count in table["genre"].value_counts().items()}
    table["genre"] = merge_classes(table["genre"], classes)
    unused = table["genre"].isna()
    skipped_items += [SkippedItem(clip, "class is not named in data.source.classes") for clip in table["id"][unused]]
    table = table[~unused].reset_index(drop=True)
    log_skipped_items(home, skipped_items)
    target = label_target(table["genre"])
    if len(target["classes"]) < 2:
        raise DataError(
            f"{home}: has the single class {target['classes'][0]!r}, but at least two are required; {EXPECTED}"
        )
    title = f"{home.resolve().name}: {len(table)} clips in {len(target['classes'])} classes"
    return Collection(
        name=slug(home.resolve().name),
        title=title,
        table=table,
        targets={"genre": target},
        card=f"# {title}\n\nAudio files, a folder per class. Their artists and licences are unknown.\n",
        note=NO_GROUP,
        extra={"before": {"genre": before}, "merged": {"genre": merged_names(before, classes)}} if classes else {},
        skipped_items=tuple(skipped_items),
    ).check()


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder, or False if it cannot be read, such as a link to itself."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _unique_ids(files: list[Path]) -> list[str]:
    """Return paths without suffix, or with suffix if two files would have the same id."""
    full_names = {file.as_posix() for file in files}
    count = Counter(file.with_suffix("").as_posix() for file in files)
    return [
        file.as_posix() if count[short] > 1 or short in full_names else short
        for file in files
        for short in [file.with_suffix("").as_posix()]
    ]
