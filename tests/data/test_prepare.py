"""A pack is made once, made anew when what it was made from changes, and says which clips it leaves out."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import etude.data.prepare
from etude.audio.decode import decode
from etude.audio.spectral import FrontEnd, frames
from etude.data.collection import Collection
from etude.data.pack import FRAMES, INDEX, MANIFEST
from etude.data.prepare import SKIPPED, prepare
from etude.data.sources.demo import HOME
from etude.errors import DataError

FRONT = FrontEnd(n_mels=40)
COUNT = 12


@pytest.fixture
def source(tmp_path: Path) -> Collection:
    """Twelve pieces of a real clip, each of another length."""
    audio = 0.5 * decode(sorted((HOME / "clips" / "electronic").iterdir())[0], 22050)
    paths = [tmp_path / f"{i}.wav" for i in range(COUNT)]
    for i, path in enumerate(paths):
        soundfile.write(path, audio[i * 9000 :][: 5000 + 900 * i], 22050, subtype="FLOAT")
    rows = {"id": [f"clip{i}" for i in range(COUNT)], "path": map(str, paths), "group": "g", "genre": ["x", "y"] * 6}
    targets = {"genre": {"kind": "label", "classes": ["x", "y"]}}
    return Collection("mine", "Mine", pd.DataFrame(rows), targets).check()


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packs"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded so far."""
    names: list[str] = []

    def spy(path: Path, rate: int) -> np.ndarray:
        names.append(path.name)
        return decode(path, rate)

    monkeypatch.setattr(etude.data.prepare, "decode", spy)
    return names


def test_a_pack_holds_the_frames_of_every_clip_in_order(source: Collection, packs: Path) -> None:
    pack = prepare(source, FRONT, packs, workers=1)
    assert pack.index["id"].tolist() == source.table["id"].tolist()
    assert pack.index["genre"].tolist() == source.table["genre"].tolist()
    for row, path in enumerate(source.table["path"]):
        np.testing.assert_array_equal(pack.clip(row), frames(decode(Path(path), 22050), FRONT).astype(np.float16))


def test_a_pack_is_made_once(source: Collection, packs: Path, decoded: list[str]) -> None:
    first = prepare(source, FRONT, packs, workers=1)
    assert decoded == [f"{i}.wav" for i in range(COUNT)]
    second = prepare(source, FRONT, packs, workers=1)
    assert len(decoded) == COUNT
    assert second.folder == first.folder
    assert [path.name for path in packs.iterdir()] == [first.folder.name]


def test_another_front_end_makes_a_pack_beside(source: Collection, packs: Path, decoded: list[str]) -> None:
    first = prepare(source, FRONT, packs, workers=1)
    other = prepare(source, replace(FRONT, hop_length=256), packs, workers=1)
    assert other.folder != first.folder
    assert other.lengths.sum() > 1.9 * first.lengths.sum()
    decoded.clear()
    assert prepare(source, FRONT, packs, workers=1).folder == first.folder
    assert decoded == []


def relabelled(source: Collection) -> Collection:
    return replace(source, table=source.table.assign(genre=["y", *source.table["genre"].tolist()[1:]]))


def regrouped(source: Collection) -> Collection:
    return replace(source, table=source.table.assign(group="other"))


def reordered(source: Collection) -> Collection:
    return replace(source, table=source.table[::-1])


def rerecorded(source: Collection) -> Collection:
    soundfile.write(source.table["path"][0], np.ones(7000) / 2, 22050)
    return source


@pytest.mark.parametrize("change", [relabelled, regrouped, reordered, rerecorded])
def test_what_is_changed_is_packed_anew(
    change: Callable[[Collection], Collection], source: Collection, packs: Path, decoded: list[str]
) -> None:
    prepare(source, FRONT, packs, workers=1)
    decoded.clear()
    changed = change(source)
    pack = prepare(changed, FRONT, packs, workers=1)
    assert len(decoded) == COUNT
    assert len(list(packs.iterdir())) == 1
    for column in ("id", "group", "genre"):
        assert pack.index[column].tolist() == changed.table[column].tolist()
    for row, path in enumerate(changed.table["path"]):
        np.testing.assert_array_equal(pack.clip(row), frames(decode(Path(path), 22050), FRONT).astype(np.float16))


def test_a_clip_that_is_no_sound_is_left_out_and_listed(source: Collection, packs: Path) -> None:
    broken = source.table["path"][4]
    Path(broken).write_text("no music")
    pack = prepare(source, FRONT, packs, workers=1)
    with (pack.folder / SKIPPED).open(newline="", encoding="utf-8") as file:
        (skipped,) = csv.DictReader(file)
    assert skipped["id"] == "clip4"
    assert broken in skipped["reason"]
    kept = source.table.drop(index=4)
    assert pack.index["id"].tolist() == kept["id"].tolist()
    for row, path in enumerate(kept["path"]):
        np.testing.assert_array_equal(pack.clip(row), frames(decode(Path(path), 22050), FRONT).astype(np.float16))


def test_many_broken_clips_are_a_mistake(source: Collection, packs: Path) -> None:
    for row in (4, 7):
        Path(source.table["path"][row]).unlink()
    with pytest.raises(DataError, match=r"^mine: 2 of 12 clips cannot be read, for example .*4\.wav: there is no such"):
        prepare(source, FRONT, packs, workers=1)
    assert not packs.exists()


def test_workers_change_no_byte(source: Collection, tmp_path: Path) -> None:
    Path(source.table["path"][4]).write_text("no music")
    one, two = (prepare(source, FRONT, tmp_path / f"packs{count}", workers=count) for count in (1, 2))
    for name in (FRAMES, INDEX, MANIFEST, SKIPPED):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_a_pack_with_a_garbled_manifest_is_made_again(source: Collection, packs: Path) -> None:
    pack = prepare(source, FRONT, packs, workers=1)
    (pack.folder / MANIFEST).write_text('{"format": 1, "na')
    again = prepare(source, FRONT, packs, workers=1)
    np.testing.assert_array_equal(again.frames, pack.frames)
