"""Collections, changes of collections and helpers for tests of the preparation of packs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.log_mel import LogMelChroma, frames
from etude.data.audio_files import read_sound
from etude.data.collection import Collection
from etude.data.pack import Pack, PackOptions
from etude.data.pack_writer import SKIPPED
from etude.data.packing import prepare_pack
from etude.files.ownership import LIST_NAME

FRONT = LogMelChroma(n_mels=40)
COUNT = 12
DRAFTED = 7  # clips in the draft before the interruption
CHANGED = 3  # index of the clip that changes
TARGETS = {"genre": {"kind": "label", "classes": ["x", "y"], "note": ""}}


class RecordingReader:
    """Reader that records the files that it reads.

    Attributes:
        names: Names of the files that were read.
        stop: Number of files after which KeyboardInterrupt is raised; None for never.
        unreadable: Files that cannot be decoded.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.stop: int | None = None
        self.unreadable: set[str] = set()

    def __call__(self, path: Path, front: LogMelChroma, shortest: float = 0.0) -> np.ndarray:
        if len(self.names) == self.stop:
            raise KeyboardInterrupt
        self.names.append(path.name)
        if path.name in self.unreadable:
            raise DecodeError(f"{path}: cannot be decoded")
        return read_sound(path, front, shortest)


def read_files(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(home.iterdir())}


def visible_names(packs: Path) -> list[str]:
    """Return the names in the folder of packs, without locks."""
    return sorted(path.name for path in packs.iterdir() if not path.name.endswith((".lock", ".holder", LIST_NAME)))


def prepare(source: Collection, packs: Path, reader: RecordingReader | None = None, **options: Any) -> Pack:
    if reader is not None:
        source = replace(source, reader=reader)
    return prepare_pack(source, FRONT, PackOptions(packs, workers=1, **options))


def files_of_new_pack(source: Collection, tmp_path: Path, **options: Any) -> dict[str, bytes]:
    """Return the files of a newly prepared pack."""
    return read_files(prepare(source, tmp_path / "new", **options).folder)


def assert_frames(pack: Pack, table: pd.DataFrame) -> None:
    """Compare the frames of a pack with those of the front end."""
    assert pack.index["id"].tolist() == table["id"].tolist()
    assert pack.index["genre"].tolist() == table["genre"].tolist()
    for row, path in enumerate(table["path"]):
        np.testing.assert_array_equal(pack.clip(row), frames(decode(Path(path), 22050), FRONT).astype(np.float16))


Change = Callable[[Collection], Collection]


def relabelled(source: Collection) -> Collection:
    return replace(source, table=source.table.assign(genre=["y", *source.table["genre"].tolist()[1:]]))


def regrouped(source: Collection) -> Collection:
    return replace(source, table=source.table.assign(group="other"))


def with_additional_target(source: Collection) -> Collection:
    more = {**source.targets, "energy": {"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""}}
    return replace(source, table=source.table.assign(energy=np.linspace(0, 1, COUNT)), targets=more)


def retitled(source: Collection) -> Collection:
    return replace(source, title="Ours", card="# Ours", note="été")


def reordered(source: Collection) -> Collection:
    return replace(source, table=source.table[::-1])


def removed(source: Collection) -> Collection:
    Path(source.table["path"][CHANGED]).unlink()
    return replace(source, table=source.table.drop(index=CHANGED))


def moved(source: Collection) -> Collection:
    """Return the collection with another path of each file."""
    home = Path(source.table["path"][0]).parent / "elsewhere"
    home.mkdir()
    paths = [Path(path).rename(home / Path(path).name) for path in source.table["path"]]
    return replace(source, table=source.table.assign(path=list(map(str, paths))))


def touched(source: Collection) -> Collection:
    os.utime(source.table["path"][CHANGED], ns=(1, 10**18 + 7))
    return source


def copied(source: Collection) -> Collection:
    """Return the collection after each file was written again with the same bytes, as by a second download."""
    for path in map(Path, source.table["path"]):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        os.utime(path, ns=(1, 10**18 + 9))
    return source


def new_clip(source: Collection) -> pd.DataFrame:
    path = Path(source.table["path"][0]).parent / "new.wav"
    shutil.copy(source.table["path"][5], path)
    return source.table[5:6].assign(id="new", path=str(path))


def added_at_the_beginning(source: Collection) -> Collection:
    return replace(source, table=pd.concat([new_clip(source), source.table]))


def added_in_the_middle(source: Collection) -> Collection:
    return replace(source, table=pd.concat([source.table[:4], new_clip(source), source.table[4:]]))


def added_at_the_end(source: Collection) -> Collection:
    return replace(source, table=pd.concat([source.table, new_clip(source)]))


def renamed(source: Collection) -> Collection:
    ids = source.table["id"].tolist()
    ids[CHANGED] = "other"
    return replace(source, table=source.table.assign(id=ids))


def recorded_again(source: Collection) -> Collection:
    soundfile.write(source.table["path"][CHANGED], np.ones(7000) / 2, 22050)
    return source


def changed_in_place(source: Collection) -> Collection:
    """Return the collection after a file was overwritten with other samples of the same size."""
    path = Path(source.table["path"][CHANGED])
    data = bytearray(path.read_bytes())
    data[-8000:-4000] = data[-4000:]
    path.write_bytes(data)
    os.utime(path, ns=(1, 10**18 + 8))
    return source


CHANGES: list[tuple[Change, list[str]]] = [
    (relabelled, []),
    (regrouped, []),
    (with_additional_target, []),
    (retitled, []),
    (reordered, []),
    (removed, []),
    (moved, []),
    (touched, []),
    (copied, []),
    (added_at_the_beginning, ["new.wav"]),
    (added_in_the_middle, ["new.wav"]),
    (added_at_the_end, ["new.wav"]),
    (renamed, [f"{CHANGED}.wav"]),
    (recorded_again, [f"{CHANGED}.wav"]),
    (changed_in_place, [f"{CHANGED}.wav"]),
]
parametrize_changes = pytest.mark.parametrize(
    ("change", "again"), CHANGES, ids=[change.__name__ for change, _ in CHANGES]
)


def interrupt_preparation(source: Collection, packs: Path, reader: RecordingReader, stop: int = DRAFTED) -> Path:
    """Interrupt the preparation after some clips, and return the folder of the draft."""
    reader.stop = len(reader.names) + stop
    with pytest.raises(KeyboardInterrupt):
        prepare(source, packs, reader)
    reader.names.clear()
    reader.stop = None
    (draft,) = packs.glob(".*.part")
    return draft


def skipped_reasons(pack: Pack) -> dict[str, str]:
    return dict(pd.read_csv(pack.folder / SKIPPED, dtype=str).itertuples(index=False))
