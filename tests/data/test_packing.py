"""Tests of the preparation of packs: caching, resuming and updating."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from tests.data.readers import counted, interrupt_call, plain, wait

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.log_mel import LogMelChroma, frames
from etude.data.collection import Collection, LeftOut, Reader
from etude.data.pack import FRAMES, INDEX, MANIFEST, Pack, PackOptions
from etude.data.pack_writer import JOURNAL, SKIPPED, SUSPECT, read_journal
from etude.data.packing import prepare_pack
from etude.data.readers import read_sound
from etude.data.sources import folder
from etude.data.sources.demo import HOME
from etude.errors import DataError, UserError
from etude.files import ownership
from etude.files.ownership import LIST_NAME

FRONT = LogMelChroma(n_mels=40)
COUNT = 12
DRAFTED = 7  # clips in the draft before the interruption
CHANGED = 3  # index of the clip that changes
TARGETS = {"genre": {"kind": "label", "classes": ["x", "y"], "note": ""}}


@pytest.fixture
def source(tmp_path: Path) -> Collection:
    """Return a collection of twelve excerpts of a real clip with different lengths."""
    audio = 0.5 * decode(sorted((HOME / "clips" / "electronic").iterdir())[0], 22050)
    paths = [tmp_path / f"{i}.wav" for i in range(COUNT)]
    for i, path in enumerate(paths):
        soundfile.write(path, audio[i * 9000 :][: 5000 + 900 * i], 22050, subtype="FLOAT")
    rows = {"id": [f"clip{i}" for i in range(COUNT)], "path": map(str, paths), "group": "g", "genre": ["x", "y"] * 6}
    return Collection("mine", "Mine", pd.DataFrame(rows), TARGETS).check()


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packs"


class Reading:
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
            raise DecodeError(f"{path}: is no music")
        return read_sound(path, front, shortest)


@pytest.fixture
def reading() -> Reading:
    return Reading()


def content(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(home.iterdir())}


def visible_names(packs: Path) -> list[str]:
    """Return the names in the folder of packs, without locks."""
    return sorted(path.name for path in packs.iterdir() if not path.name.endswith((".lock", ".holder", LIST_NAME)))


def prepare(source: Collection, packs: Path, reading: Reading | None = None, **options: Any) -> Pack:
    if reading is not None:
        source = replace(source, reader=reading)
    return prepare_pack(source, FRONT, PackOptions(packs, workers=1, **options))


def new_files(source: Collection, tmp_path: Path, **options: Any) -> dict[str, bytes]:
    """Return the files of a newly prepared pack."""
    return content(prepare(source, tmp_path / "new_files", **options).folder)


def assert_frames(pack: Pack, table: pd.DataFrame) -> None:
    """Compare the frames of a pack with those of the front end."""
    assert pack.index["id"].tolist() == table["id"].tolist()
    assert pack.index["genre"].tolist() == table["genre"].tolist()
    for row, path in enumerate(table["path"]):
        np.testing.assert_array_equal(pack.clip(row), frames(decode(Path(path), 22050), FRONT).astype(np.float16))


def test_pack_has_frames_of_each_clip_in_order(source: Collection, packs: Path) -> None:
    pack = prepare(source, packs)
    assert_frames(pack, source.table)
    assert set(content(pack.folder)) == {LIST_NAME, FRAMES, INDEX, JOURNAL, MANIFEST, SKIPPED}
    assert "path" not in pack.index  # a pack can be copied to other machines
    assert b"/tmp" not in b"".join(content(pack.folder).values())
    description = pack.manifest["origin"]["collection"]
    assert (description["name"], description["title"], description["targets"]) == ("mine", "Mine", TARGETS)
    assert (pack.manifest["clips"], pack.manifest["skipped"]) == (COUNT, 0)
    pack.verify()


def test_pack_is_prepared_once(source: Collection, packs: Path, reading: Reading) -> None:
    first = prepare(source, packs, reading)
    assert reading.names == [f"{i}.wav" for i in range(COUNT)]
    before = content(first.folder)
    stamps = [path.stat().st_mtime_ns for path in sorted(first.folder.iterdir())]
    second = prepare(source, packs, reading)
    assert len(reading.names) == COUNT
    assert second.folder == first.folder
    assert content(second.folder) == before
    assert [
        path.stat().st_mtime_ns for path in sorted(first.folder.iterdir())
    ] == stamps  # the files were not written again
    assert visible_names(packs) == [first.folder.name]


@pytest.mark.parametrize("change", [{"hop_length": 256}, {"tuning": None}, {"sync": "beat"}], ids=str)
def test_other_front_end_gets_separate_pack(
    source: Collection, packs: Path, reading: Reading, change: dict[str, Any]
) -> None:
    first = prepare(source, packs)
    other = prepare_pack(source, replace(FRONT, **change), PackOptions(packs, workers=1))
    assert other.folder != first.folder
    assert not np.array_equal(other.frames[:5], first.frames[:5])
    assert prepare(source, packs, reading).folder == first.folder
    assert reading.names == []


Change = Callable[[Collection], Collection]


def relabelled(source: Collection) -> Collection:
    return replace(source, table=source.table.assign(genre=["y", *source.table["genre"].tolist()[1:]]))


def regrouped(source: Collection) -> Collection:
    return replace(source, table=source.table.assign(group="other"))


def with_a_target_more(source: Collection) -> Collection:
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


def added_in_front(source: Collection) -> Collection:
    return replace(source, table=pd.concat([new_clip(source), source.table]))


def added_in_between(source: Collection) -> Collection:
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
    (with_a_target_more, []),
    (retitled, []),
    (reordered, []),
    (removed, []),
    (moved, []),
    (touched, []),
    (copied, []),
    (added_in_front, ["new.wav"]),
    (added_in_between, ["new.wav"]),
    (added_at_the_end, ["new.wav"]),
    (renamed, [f"{CHANGED}.wav"]),
    (recorded_again, [f"{CHANGED}.wav"]),
    (changed_in_place, [f"{CHANGED}.wav"]),
]
changing = pytest.mark.parametrize(("change", "again"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])


@changing
def test_only_changed_clips_of_finished_pack_are_computed(
    change: Change, again: list[str], source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    prepare(source, packs)
    changed = change(source)
    pack = prepare(changed, packs, reading)
    assert reading.names == again
    assert_frames(pack, changed.table)
    assert content(pack.folder) == new_files(changed, tmp_path)
    assert visible_names(packs) == [pack.folder.name]
    reading.names.clear()
    prepare(changed, packs, reading)
    assert reading.names == []


def interrupted(source: Collection, packs: Path, reading: Reading, stop: int = DRAFTED) -> Path:
    """Interrupt the preparation after some clips; return the folder of the draft."""
    reading.stop = len(reading.names) + stop
    with pytest.raises(KeyboardInterrupt):
        prepare(source, packs, reading)
    reading.names.clear()
    reading.stop = None
    (draft,) = packs.glob(".*.part")
    return draft


def test_interrupted_draft_is_resumed(source: Collection, packs: Path, reading: Reading, tmp_path: Path) -> None:
    draft = interrupted(source, packs, reading)
    assert len(read_journal(draft)) == DRAFTED
    assert not [path for path in packs.iterdir() if not path.name.startswith(".")]  # no complete pack
    pack = prepare(source, packs, reading)
    assert reading.names == [f"{i}.wav" for i in range(DRAFTED, COUNT)]
    assert content(pack.folder) == new_files(source, tmp_path)
    assert visible_names(packs) == [pack.folder.name]


@pytest.mark.parametrize("stop", range(COUNT))
def test_draft_can_be_interrupted_at_each_clip(
    stop: int, source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    interrupted(source, packs, reading, stop)
    assert content(prepare(source, packs, reading).folder) == new_files(source, tmp_path)
    assert len(reading.names) == COUNT - stop


def test_draft_can_be_interrupted_after_each_clip(
    source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    for _ in range(COUNT - 1):
        interrupted(source, packs, reading, stop=1)
    pack = prepare(source, packs, reading)
    assert reading.names == [f"{COUNT - 1}.wav"]
    assert content(pack.folder) == new_files(source, tmp_path)


@changing
def test_valid_clips_of_draft_are_reused_after_collection_changed(
    change: Change, again: list[str], source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    interrupted(source, packs, reading)
    changed = change(source)
    pack = prepare(changed, packs, reading)
    assert sorted(reading.names) == sorted([*again, *(f"{i}.wav" for i in range(DRAFTED, COUNT))])
    assert content(pack.folder) == new_files(changed, tmp_path)
    assert visible_names(packs) == [pack.folder.name]


def test_draft_reuses_clips_of_itself_and_of_old_pack(
    source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    half = replace(source, table=source.table[:6])
    old = content(prepare(half, packs).folder)
    draft = interrupted(source, packs, reading, stop=2)
    assert (
        content(draft.with_name(draft.name.removeprefix(".").removesuffix(".part"))) == old
    )  # the old pack is kept until then
    changed = changed_in_place(added_in_front(source))
    pack = prepare(changed, packs, reading)
    assert sorted(reading.names) == sorted(["new.wav", f"{CHANGED}.wav", *(f"{i}.wav" for i in range(8, COUNT))])
    assert content(pack.folder) == new_files(changed, tmp_path)


def test_collection_may_change_twice_before_pack_is_complete(
    source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    interrupted(source, packs, reading)
    once = added_in_between(source)
    interrupted(once, packs, reading, stop=0)  # four clips were reused before the new one
    twice = replace(once, table=once.table.iloc[1:])
    pack = prepare(twice, packs, reading)
    assert sorted(reading.names) == sorted(["new.wav", *(f"{i}.wav" for i in range(DRAFTED, COUNT))])
    assert content(pack.folder) == new_files(twice, tmp_path)


def cut_line(draft: Path) -> int:
    text = (draft / JOURNAL).read_bytes()
    (draft / JOURNAL).write_bytes(text[: -len(text) // DRAFTED // 2])
    return DRAFTED - 1


def frames_behind(draft: Path) -> int:
    with (draft / FRAMES).open("ab") as file:
        file.write(b"\x01" * 12_345)
    return DRAFTED


def frames_and_half_a_line(draft: Path) -> int:
    frames_behind(draft)
    with (draft / JOURNAL).open("ab") as file:
        file.write(b'{"id": "clip7", "si')
    return DRAFTED


def last_frames_lost(draft: Path) -> int:
    data = (draft / FRAMES).read_bytes()
    (draft / FRAMES).write_bytes(data[:-1])
    return DRAFTED - 1


def last_frames_garbled(draft: Path) -> int:
    data = bytearray((draft / FRAMES).read_bytes())
    data[-500:-400] = bytes(100)
    (draft / FRAMES).write_bytes(data)
    return DRAFTED - 1


def journal_lost(draft: Path) -> int:
    (draft / JOURNAL).unlink()
    return 0


def frames_lost(draft: Path) -> int:
    (draft / FRAMES).unlink()
    return 0


@pytest.mark.parametrize(
    "damage",
    [cut_line, frames_behind, frames_and_half_a_line, last_frames_lost, last_frames_garbled, journal_lost, frames_lost],
)
def test_damaged_draft_resumes_from_intact_clips(
    damage: Callable[[Path], int], source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    kept = damage(interrupted(source, packs, reading))
    pack = prepare(source, packs, reading)
    assert reading.names == [f"{i}.wav" for i in range(kept, COUNT)]
    assert content(pack.folder) == new_files(source, tmp_path)


def test_damaged_frames_are_not_reused(source: Collection, packs: Path, reading: Reading, tmp_path: Path) -> None:
    """A clip with a flipped bit on disk is computed again, not copied into the next pack."""
    pack = prepare(source, packs)
    data = bytearray((pack.folder / FRAMES).read_bytes())
    data[int(pack.starts[CHANGED]) * 2 * FRONT.bins] ^= 1
    (pack.folder / FRAMES).write_bytes(data)
    more = added_at_the_end(source)
    pack = prepare(more, packs, reading)
    pack.verify()
    assert reading.names == [f"{CHANGED}.wav", "new.wav"]
    assert content(pack.folder) == new_files(more, tmp_path)


def clips_behind(name: str, stop: int, pack: Pack) -> list[str]:
    """Return the files whose frames or lines end after a position in a file of the pack."""
    if name not in (FRAMES, JOURNAL):
        return []
    sizes = pack.lengths * 2 * FRONT.bins
    if name == JOURNAL:
        sizes = [len(line) for line in (pack.folder / JOURNAL).read_bytes().splitlines(keepends=True)]
    return [f"{i}.wav" for i in np.flatnonzero(np.cumsum(sizes) > stop)]


@pytest.mark.parametrize("name", [MANIFEST, INDEX, FRAMES, JOURNAL, SKIPPED])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_pack_is_repaired(
    name: str, share: float, source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    """The remaining clips are reused."""
    pack = prepare(source, packs)
    whole = (pack.folder / name).read_bytes()
    stop = int(share * len(whole))
    lost = clips_behind(name, stop, pack)
    (pack.folder / name).write_bytes(whole[:stop])
    again = prepare(relabelled(source), packs, reading)
    assert content(again.folder) == new_files(relabelled(source), tmp_path)
    assert reading.names == lost


@pytest.mark.parametrize("name", [MANIFEST, INDEX, FRAMES, JOURNAL])
def test_pack_with_missing_file_is_repaired(name: str, source: Collection, packs: Path, tmp_path: Path) -> None:
    """The collection has not changed."""
    pack = prepare(source, packs)
    (pack.folder / name).unlink()
    assert content(prepare(source, packs).folder) == new_files(source, tmp_path)


@pytest.mark.parametrize(("method", "step"), [("rename", 1), ("rename", 2), *(("replace", i) for i in (2, 3, 4))])
def test_interruption_at_end_loses_no_clip(
    method: str, step: int, source: Collection, packs: Path, reading: Reading, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The new pack replaces an existing pack."""
    prepare(source, packs)
    changed = added_at_the_end(source)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_call(method, step, patch)
        prepare(changed, packs)
    again = prepare(changed, packs, reading)
    assert reading.names == []
    expected = new_files(changed, tmp_path)
    assert {name: data for name, data in content(again.folder).items() if name in expected} == expected
    assert visible_names(packs) == [again.folder.name]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_interruption_during_label_update_loses_no_clip(
    step: int, source: Collection, packs: Path, reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(source, packs)
    changed = relabelled(touched(source))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_call("replace", step, patch)
        prepare(changed, packs)
    again = prepare(changed, packs, reading)
    assert reading.names == []
    expected = new_files(changed, tmp_path)
    assert {name: data for name, data in content(again.folder).items() if name in expected} == expected


# skipped clips and their limit


def skipped(pack: Pack) -> dict[str, str]:
    return dict(pd.read_csv(pack.folder / SKIPPED, dtype=str).itertuples(index=False))


def test_undecodable_clip_is_skipped_and_listed(source: Collection, packs: Path) -> None:
    broken = source.table["path"][4]
    Path(broken).write_text("no music")
    pack = prepare(source, packs)
    ((clip, reason),) = skipped(pack).items()
    assert clip == "clip4"
    assert reason.startswith(f"{broken}: cannot be decoded")
    assert_frames(pack, source.table.drop(index=4))
    assert (pack.manifest["clips"], pack.manifest["skipped"]) == (COUNT - 1, 1)


def test_skipped_clip_is_retried_only_after_file_changed(
    source: Collection, packs: Path, reading: Reading, tmp_path: Path
) -> None:
    """Changed labels do not cause a broken file to be decoded again."""
    broken = Path(source.table["path"][4])
    whole = broken.read_bytes()
    broken.write_text("no music")
    prepare(source, packs)
    prepare(source, packs, reading)
    prepare(relabelled(source), packs, reading)
    more = added_at_the_end(source)
    prepare(more, packs, reading)
    assert reading.names == ["new.wav"]
    broken.write_bytes(whole)
    pack = prepare(more, packs, reading)
    assert reading.names == ["new.wav", "4.wav"]
    assert skipped(pack) == {}
    assert content(pack.folder) == new_files(more, tmp_path)


def test_missing_file_is_added_when_it_exists(source: Collection, packs: Path, reading: Reading) -> None:
    away = Path(source.table["path"][4])
    hidden = away.rename(away.with_suffix(".hidden"))
    pack = prepare(source, packs, reading)
    assert skipped(pack) == {"clip4": f"{away}: there is no such file"}
    hidden.rename(away)
    reading.names.clear()
    pack = prepare(source, packs, reading)
    assert reading.names == ["4.wav"]
    assert_frames(pack, source.table)


def test_named_pipe_is_skipped(source: Collection, packs: Path) -> None:
    path = Path(source.table["path"][4])
    path.unlink()
    os.mkfifo(path)  # opening a pipe waits for a writer
    assert skipped(prepare(source, packs)) == {"clip4": f"{path}: is not a regular file"}


def test_retry_reads_only_skipped_clips(source: Collection, packs: Path, reading: Reading, tmp_path: Path) -> None:
    """An example is a later installation of ffmpeg."""
    reading.unreadable = {"4.wav"}
    pack = prepare(source, packs, reading)
    assert list(skipped(pack)) == ["clip4"]
    reading.unreadable.clear()
    reading.names.clear()
    prepare(source, packs, reading)
    assert reading.names == []
    pack = prepare(source, packs, reading, retry=True)
    assert reading.names == ["4.wav"]
    assert content(pack.folder) == new_files(source, tmp_path)


def test_retry_reads_clips_skipped_by_draft(source: Collection, packs: Path, reading: Reading, tmp_path: Path) -> None:
    reading.unreadable = {"2.wav", "5.wav"}
    with pytest.raises(DataError, match=r"more than data\.max_skipped"):
        prepare(source, packs, reading)
    reading.unreadable.clear()
    reading.names.clear()
    pack = prepare(source, packs, reading, retry=True)
    assert sorted(reading.names) == sorted(["2.wav", *(f"{i}.wav" for i in range(5, COUNT))])
    assert content(pack.folder) == new_files(source, tmp_path)


def test_too_many_broken_clips_are_refused_early(source: Collection, packs: Path, reading: Reading) -> None:
    reading.unreadable = {f"{i}.wav" for i in range(COUNT)}
    with pytest.raises(DataError) as error:
        prepare(source, packs, reading)
    assert str(error.value) == (
        "mine: 2 of 12 clips were skipped, more than data.max_skipped=0.1 allows; for example "
        f"{source.table['path'][0]}: is no music; repair or remove these files, or increase data.max_skipped"
    )
    assert reading.names == ["0.wav", "1.wav"]
    assert visible_names(packs) == []  # no files are left


def test_clips_before_too_many_broken_are_kept(source: Collection, packs: Path, reading: Reading) -> None:
    reading.unreadable = {"2.wav", "5.wav"}
    with pytest.raises(DataError, match="2 of 12 clips were skipped"):
        prepare(source, packs, reading)
    assert reading.names == [f"{i}.wav" for i in range(6)]
    pack = prepare(source, packs, reading, max_skipped=0.2)
    assert reading.names == [f"{i}.wav" for i in range(COUNT)]
    assert list(skipped(pack)) == ["clip2", "clip5"]


def test_repeated_call_does_not_allow_more_broken_clips(source: Collection, packs: Path, reading: Reading) -> None:
    """Clips that an interrupted draft skipped count as well."""
    reading.unreadable = {"2.wav", "5.wav"}
    for _ in range(2):
        with pytest.raises(DataError, match="2 of 12 clips were skipped"):
            prepare(source, packs, reading)


@pytest.mark.parametrize("share", [0.0, 0.08])
def test_zero_broken_clips_can_be_required(share: float, source: Collection, packs: Path) -> None:
    Path(source.table["path"][4]).write_text("no music")
    with pytest.raises(DataError, match=f"1 of 12 clips were skipped, more than data.max_skipped={share:g}"):
        prepare(source, packs, max_skipped=share)


def test_collection_without_sound_is_refused_for_any_limit(source: Collection, packs: Path, reading: Reading) -> None:
    reading.unreadable = {f"{i}.wav" for i in range(COUNT)}
    with pytest.raises(DataError, match=r"^mine: .*0\.wav: is no music"):
        prepare(source, packs, reading, max_skipped=1.0)


def test_short_clips_are_skipped(source: Collection, packs: Path) -> None:
    """Clip i has 5000 + 900 i samples."""
    pack = prepare(source, packs, shortest=0.3, max_skipped=0.5)
    assert pack.index["id"].tolist() == [f"clip{i}" for i in range(2, COUNT)]
    assert skipped(pack) == {
        "clip0": f"{source.table['path'][0]}: is too short (0.23 s, at least 0.3 s are needed)",
        "clip1": f"{source.table['path'][1]}: is too short (0.27 s, at least 0.3 s are needed)",
    }
    other = prepare(source, packs, shortest=0.4, max_skipped=0.5)
    assert other.folder != pack.folder
    assert len(other.index) == COUNT - 5


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"


def test_each_invalid_file_is_listed_and_skipped(packs: Path, tmp_path: Path) -> None:
    home = tmp_path / "my music"
    audio = decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)[: 4 * 22050]
    for name in ("x", "y"):
        (home / name).mkdir(parents=True)
    good = ["x/a.wav", "x/b.flac", "y/a.ogg", "y/z.mp3"]
    for name in good:
        soundfile.write(home / name, audio, 22050)
    (home / "x" / "empty.wav").touch()
    (home / "x" / "text.mp3").write_text("This was meant to be music.\n" * 500)
    for name in ("x/half.mp3", "y/half.flac"):
        soundfile.write(home / name, audio, 22050)
        (home / name).write_bytes((home / name).read_bytes()[: (home / name).stat().st_size // 2])
    soundfile.write(home / "x" / "silence.wav", np.zeros(44100), 22050)
    soundfile.write(home / "y" / "nan.wav", np.where(np.arange(44100) == 9, np.nan, 0.1), 22050, subtype="FLOAT")
    soundfile.write(home / "y" / "short.wav", audio[:2205], 22050)
    (home / "y" / "playlist.m4a").write_text(PLAYLIST)
    soundfile.write(home / "y" / "gone.wav", audio, 22050)
    source = folder.collection(str(home))
    (home / "y" / "gone.wav").unlink()  # deleted after the search
    pack = prepare_pack(source, FRONT, PackOptions(packs, shortest=0.5, max_skipped=0.9, workers=1))
    assert pack.index["id"].tolist() == sorted(name.rsplit(".", 1)[0] for name in good)
    pack.verify()
    expected = {
        "x/empty": "x/empty.wav: is empty, 0 bytes",
        "x/half": "x/half.mp3: is truncated, only 2.0 s of 4.0 s are present",
        "x/silence": "x/silence.wav: is silent",
        "x/text": "x/text.mp3: cannot be decoded (it contains no sound in a format that libsndfile supports",
        "y/gone": "y/gone.wav: there is no such file",
        "y/half": "y/half.flac: is broken (",
        "y/nan": "y/nan.wav: contains NaN or infinite samples",
        "y/playlist": "y/playlist.m4a: cannot be decoded (",
        "y/short": "y/short.wav: is too short (0.10 s, at least 0.5 s are needed)",
    }
    reasons = skipped(pack)
    assert set(reasons) == set(expected)
    for clip, sentence in expected.items():
        assert reasons[clip].startswith(f"{home}/{sentence}"), reasons[clip]
        assert "\n" not in reasons[clip]


def test_frames_beyond_half_precision_are_skipped(source: Collection, packs: Path) -> None:
    def loud(path: Path, front: LogMelChroma, shortest: float) -> np.ndarray:
        result = read_sound(path, front, shortest)
        return result * 1e6 if path.name == "4.wav" else result

    pack = prepare(replace(source, reader=loud), packs)
    assert skipped(pack) == {"clip4": f"{source.table['path'][4]}: has frames that are not finite"}


# processes


def test_processes_and_threads_do_not_change_pack(packs: Path, tmp_path: Path) -> None:
    """With real clips of ten seconds, a difference in the last digit of a sum would be detected."""
    paths = [
        path
        for genre in ("electronic", "metal", "orchestral")
        for path in sorted((HOME / "clips" / genre).iterdir())[:3]
    ]
    (tmp_path / "text.ogg").write_text("no music")
    paths.insert(5, tmp_path / "text.ogg")
    rows = {"id": [path.stem for path in paths], "path": list(map(str, paths)), "group": None, "genre": None}
    source = Collection("real", "Real", pd.DataFrame(rows), TARGETS).check()
    contents = {}
    for name, workers, threads in (("alone", 1, 1), ("two processes", 2, 1), ("threads", 1, 2)):
        torch.set_num_threads(threads)
        contents[name] = content(
            prepare_pack(source, LogMelChroma(), PackOptions(packs / name, workers=workers)).folder
        )
    torch.set_num_threads(1)
    assert contents["two processes"] == contents["alone"]
    assert contents["threads"] == contents["alone"]


def test_clips_above_the_limit_are_skipped_and_counted(
    source: Collection, packs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = prepare(source, packs, longest=0.6, max_skipped=0.5)  # the twelfth has 0.68 s
    assert pack.index["id"].tolist() == [f"clip{i}" for i in range(COUNT - 2)]
    skipped = pd.read_csv(pack.folder / SKIPPED)
    assert skipped["id"].tolist() == ["clip10", "clip11"]
    assert skipped["reason"].str.contains(r"is too long \(\d s or more; at most 0.6 s .*; data.max_seconds sets").all()
    assert "2 clips were skipped" in caplog.text
    with pytest.raises(DataError, match=r"is too long"):
        prepare(source, packs, longest=0.5)
    with pytest.raises(UserError, match=r"^data.max_seconds=1: must be greater than data.min_seconds=2, or null$"):
        PackOptions(packs, shortest=2.0, longest=1.0)


def test_default_limit_does_not_change_name_of_pack(source: Collection, packs: Path) -> None:
    assert "longest" not in prepare(source, packs).manifest["origin"]
    assert prepare(source, packs, longest=None).folder != prepare(source, packs).folder


@pytest.mark.parametrize("workers", [1, 2])
def test_suspect_clips_are_used_and_listed(
    workers: int, source: Collection, packs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0).uniform(-1, 1, 22050).astype(np.float32)
    for index in (2, CHANGED):
        soundfile.write(source.table["path"][index], random, 22050, subtype="PCM_16")
    pack = prepare_pack(source, FRONT, PackOptions(packs, workers=workers))
    assert len(pack.index) == COUNT
    suspect = pd.read_csv(pack.folder / SUSPECT)
    assert suspect["id"].tolist() == ["clip2", f"clip{CHANGED}"]
    assert suspect["reason"].str.startswith("is white noise near full scale").all()
    assert "2 clips are used although they may not be music" in caplog.text
    assert f"clip{CHANGED}: is white noise near full scale" in caplog.text


FORKING = get_context("forkserver")  # forked processes need no imports
SLOW = LogMelChroma(n_mels=16, hop_length=32)  # small hops slow down each clip
MANY = 120
alive = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")


def many(home: Path, reader: Reader = plain) -> Collection:
    paths = sorted(home.glob("*.wav"))
    rows = {"id": [path.stem for path in paths], "path": list(map(str, paths)), "group": None, "genre": None}
    return Collection("many", "Many", pd.DataFrame(rows), TARGETS, reader=reader)


def job(home: Path, packs: Path, workers: int) -> None:
    prepare_pack(many(home), SLOW, PackOptions(packs, workers=workers))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of many short files."""
    home = tmp_path_factory.mktemp("home")
    audio = decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)
    for i in range(MANY):
        soundfile.write(home / f"{i:03}.wav", audio[1500 * i :][: 8000 + 20 * i], 22050)
    return home


@pytest.fixture
def start() -> Iterator[Callable[..., ForkServerProcess]]:
    """Return a function that starts a process; kill remaining processes at the end."""
    FORKING.set_forkserver_preload(["pandas", "pyarrow.parquet", "soundfile", "torch", "etude.data.packing"])
    started: list[ForkServerProcess] = []

    def begin(function: Callable[..., None], *args: Any) -> ForkServerProcess:
        process = FORKING.Process(target=function, args=args)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def children(pid: int | None) -> list[int]:
    """Return the descendants of a process."""
    try:
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return own + [deeper for child in own for deeper in children(child)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def ended(workers: list[int], seconds: float) -> bool:
    """Return whether workers exit after their parent was killed; kill those that do not."""
    by_themselves = wait(lambda: not any(map(running, workers)), seconds)
    for pid in workers:
        if running(pid):
            os.kill(pid, signal.SIGKILL)
    return by_themselves


def lines(packs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in packs.glob(".*.part/journal.jsonl"))


@alive
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_process_is_resumed_without_loss(
    workers: int, home: Path, packs: Path, tmp_path: Path, start: Callable[..., ForkServerProcess]
) -> None:
    """The process is killed ten times after a random number of clips, with workers often during their start."""
    expected = content(prepare_pack(many(home), SLOW, PackOptions(tmp_path / "sure", workers=1)).folder)
    rng = np.random.default_rng(workers)
    moments = rng.integers(1, 12, 10) if workers == 1 else rng.permutation([0] * 8 + [1, 9])
    partly, helped = 0, True
    for more in moments.tolist():
        before = lines(packs)
        process = start(job, home, packs, workers)

        def ready(process: ForkServerProcess = process, wanted: int = before + more, starting: bool = not more) -> bool:
            return not process.is_alive() or (bool(children(process.pid)) if starting else lines(packs) >= wanted)

        assert wait(ready)
        os.kill(process.pid or 0, signal.SIGSTOP)  # so that it starts no further workers
        helpers = children(process.pid)
        process.kill()
        process.join()
        if more:
            helped = ended(helpers, seconds=10 if helped else 0) and helped
        ended(helpers, seconds=0)
        partly += 0 < lines(packs) < MANY
        for pack in packs.glob("many-*"):  # the process finished before it was killed
            assert content(pack) == expected
            shutil.rmtree(packs)
    assert partly >= 2
    assert helped
    process = start(job, home, packs, workers)
    process.join()
    assert process.exitcode == 0
    (pack,) = packs.glob("many-*")
    assert content(pack) == expected
    assert visible_names(packs) == [pack.name]
    Pack(pack).verify()
    assert helped  # otherwise surviving workers would keep their memory


def first(home: Path, packs: Path) -> None:
    prepare_pack(many(home, counted), SLOW, PackOptions(packs, workers=1))


def second(home: Path, packs: Path) -> None:
    (home / "both").touch()
    prepare_pack(many(home, counted), SLOW, PackOptions(packs, workers=1)).verify()


def test_one_of_two_processes_prepares_pack(
    home: Path, packs: Path, tmp_path: Path, start: Callable[..., ForkServerProcess]
) -> None:
    """The second process starts while the first reads its sixth clip."""
    shutil.copytree(home, copy := tmp_path / "copy")
    processes = [start(first, copy, packs)]
    assert wait(lambda: lines(packs) > 0)
    processes.append(start(second, copy, packs))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted((copy / "calls").read_text().split()) == [f"{i:03}" for i in range(MANY)]
    (pack,) = packs.glob("many-*")
    assert content(pack) == content(prepare_pack(many(copy), SLOW, PackOptions(tmp_path / "sure", workers=1)).folder)


def test_skipped_items_of_source_are_listed_with_clips(source: Collection, packs: Path) -> None:
    Path(source.table["path"][CHANGED]).write_bytes(b"no music")
    notes = replace(source, left_out=(LeftOut("notes.txt", "suffix .txt is not a sound format"),))
    pack = prepare(notes, packs)
    assert (pack.manifest["skipped"], pack.manifest["left_out"]) == (1, 1)
    listed = pd.read_csv(pack.folder / SKIPPED)
    assert listed["id"].tolist() == [f"clip{CHANGED}", "notes.txt"]
    assert listed["reason"][1] == "suffix .txt is not a sound format"
    stamp = (pack.folder / FRAMES).stat().st_mtime_ns
    more = replace(notes, left_out=(*notes.left_out, LeftOut("row 9", "path is empty", clip=True)))
    again = prepare(more, packs)
    assert pd.read_csv(again.folder / SKIPPED)["id"].tolist() == [f"clip{CHANGED}", "notes.txt", "row 9"]
    assert (again.folder / FRAMES).stat().st_mtime_ns == stamp
    assert "left_out" not in prepare(source, packs).manifest


def test_clips_skipped_by_source_count_for_max_skipped(source: Collection, packs: Path) -> None:
    lost = tuple(LeftOut(f"row {i}", "path is empty", clip=True) for i in range(4))
    with pytest.raises(DataError, match=r"4 of 16 clips were skipped.*for example row 0: path is empty"):
        prepare(replace(source, left_out=lost), packs, max_skipped=0.2)
    assert not [path for path in packs.iterdir() if path.is_dir()]
    assert len(prepare(replace(source, left_out=lost), packs, max_skipped=0.25).index) == COUNT
    others = tuple(replace(item, clip=False) for item in lost)
    assert len(prepare(replace(source, left_out=others), packs, max_skipped=0.0).index) == COUNT


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that clears the list of files written by this process."""

    def forget() -> None:
        monkeypatch.setattr(ownership, "_folders", set())
        monkeypatch.setattr(ownership, "_created", set())

    return forget


def test_outdated_pack_of_another_process_is_replaced(
    source: Collection, packs: Path, another_process: Callable[[], None]
) -> None:
    fewer = replace(source, table=source.table[:-1])
    prepare_pack(fewer, FRONT, PackOptions(packs, workers=1))
    another_process()
    assert len(prepare_pack(source, FRONT, PackOptions(packs, workers=1)).index) == COUNT
    assert [path.name for path in packs.iterdir() if path.is_dir() and path.name.startswith(".")] == []


def test_changed_frames_are_computed_again(
    source: Collection, packs: Path, another_process: Callable[[], None]
) -> None:
    pack = prepare_pack(source, FRONT, PackOptions(packs, workers=1))
    before = (pack.folder / FRAMES).read_bytes()
    (pack.folder / FRAMES).write_bytes(before[:1000] + bytes([before[1000] ^ 1]) + before[1001:])
    later = (pack.folder / MANIFEST).stat().st_mtime_ns + 10**9
    os.utime(pack.folder / FRAMES, ns=(later, later))
    another_process()
    again = prepare_pack(source, FRONT, PackOptions(packs, workers=1))
    assert (again.folder / FRAMES).read_bytes() == before
    again.verify()
