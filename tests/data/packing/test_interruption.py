"""Tests of interrupted preparations and of damaged drafts and packs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.packing.preparation import (
    CHANGED,
    COUNT,
    DRAFTED,
    FRONT,
    Change,
    RecordingReader,
    added_at_the_beginning,
    added_at_the_end,
    added_in_the_middle,
    changed_in_place,
    files_of_new_pack,
    interrupt_preparation,
    parametrize_changes,
    prepare,
    read_files,
    relabelled,
    touched,
    visible_names,
)
from tests.data.readers import interrupt_call

from etude.data.collection import Collection
from etude.data.pack import FRAMES, INDEX, MANIFEST, Pack
from etude.data.pack_writer import JOURNAL, SKIPPED, read_journal


def test_interrupted_draft_is_resumed(source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path) -> None:
    draft = interrupt_preparation(source, packs, reader)
    assert len(read_journal(draft)) == DRAFTED
    assert not [path for path in packs.iterdir() if not path.name.startswith(".")]  # no complete pack
    pack = prepare(source, packs, reader)
    assert reader.names == [f"{i}.wav" for i in range(DRAFTED, COUNT)]
    assert read_files(pack.folder) == files_of_new_pack(source, tmp_path)
    assert visible_names(packs) == [pack.folder.name]


@pytest.mark.parametrize("stop", range(COUNT))
def test_draft_can_be_interrupted_at_each_clip(
    stop: int, source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    interrupt_preparation(source, packs, reader, stop)
    assert read_files(prepare(source, packs, reader).folder) == files_of_new_pack(source, tmp_path)
    assert len(reader.names) == COUNT - stop


def test_draft_can_be_interrupted_after_each_clip(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    for _ in range(COUNT - 1):
        interrupt_preparation(source, packs, reader, stop=1)
    pack = prepare(source, packs, reader)
    assert reader.names == [f"{COUNT - 1}.wav"]
    assert read_files(pack.folder) == files_of_new_pack(source, tmp_path)


@parametrize_changes
def test_valid_clips_of_draft_are_reused_after_collection_changed(
    change: Change, again: list[str], source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    interrupt_preparation(source, packs, reader)
    changed = change(source)
    pack = prepare(changed, packs, reader)
    assert sorted(reader.names) == sorted([*again, *(f"{i}.wav" for i in range(DRAFTED, COUNT))])
    assert read_files(pack.folder) == files_of_new_pack(changed, tmp_path)
    assert visible_names(packs) == [pack.folder.name]


def test_draft_reuses_clips_of_itself_and_of_old_pack(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    half = replace(source, table=source.table[:6])
    old = read_files(prepare(half, packs).folder)
    draft = interrupt_preparation(source, packs, reader, stop=2)
    old_pack = draft.with_name(draft.name.removeprefix(".").removesuffix(".part"))
    assert read_files(old_pack) == old  # it is kept until the new pack is complete
    changed = changed_in_place(added_at_the_beginning(source))
    pack = prepare(changed, packs, reader)
    assert sorted(reader.names) == sorted(["new.wav", f"{CHANGED}.wav", *(f"{i}.wav" for i in range(8, COUNT))])
    assert read_files(pack.folder) == files_of_new_pack(changed, tmp_path)


def test_collection_may_change_twice_before_pack_is_complete(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    interrupt_preparation(source, packs, reader)
    once = added_in_the_middle(source)
    interrupt_preparation(once, packs, reader, stop=0)  # four clips were reused before the new one
    twice = replace(once, table=once.table.iloc[1:])
    pack = prepare(twice, packs, reader)
    assert sorted(reader.names) == sorted(["new.wav", *(f"{i}.wav" for i in range(DRAFTED, COUNT))])
    assert read_files(pack.folder) == files_of_new_pack(twice, tmp_path)


def truncate_last_line(draft: Path) -> int:
    text = (draft / JOURNAL).read_bytes()
    (draft / JOURNAL).write_bytes(text[: -len(text) // DRAFTED // 2])
    return DRAFTED - 1


def append_frames(draft: Path) -> int:
    with (draft / FRAMES).open("ab") as file:
        file.write(b"\x01" * 12_345)
    return DRAFTED


def append_frames_and_partial_line(draft: Path) -> int:
    append_frames(draft)
    with (draft / JOURNAL).open("ab") as file:
        file.write(b'{"id": "clip7", "si')
    return DRAFTED


def truncate_last_frames(draft: Path) -> int:
    data = (draft / FRAMES).read_bytes()
    (draft / FRAMES).write_bytes(data[:-1])
    return DRAFTED - 1


def corrupt_last_frames(draft: Path) -> int:
    data = bytearray((draft / FRAMES).read_bytes())
    data[-500:-400] = bytes(100)
    (draft / FRAMES).write_bytes(data)
    return DRAFTED - 1


def delete_journal(draft: Path) -> int:
    (draft / JOURNAL).unlink()
    return 0


def delete_frames(draft: Path) -> int:
    (draft / FRAMES).unlink()
    return 0


@pytest.mark.parametrize(
    "damage",
    [
        truncate_last_line,
        append_frames,
        append_frames_and_partial_line,
        truncate_last_frames,
        corrupt_last_frames,
        delete_journal,
        delete_frames,
    ],
)
def test_damaged_draft_resumes_from_intact_clips(
    damage: Callable[[Path], int], source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    kept = damage(interrupt_preparation(source, packs, reader))
    pack = prepare(source, packs, reader)
    assert reader.names == [f"{i}.wav" for i in range(kept, COUNT)]
    assert read_files(pack.folder) == files_of_new_pack(source, tmp_path)


def test_damaged_frames_are_not_reused(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    """Flip a bit of a clip on disk, which is then computed again and not copied into the next pack."""
    pack = prepare(source, packs)
    data = bytearray((pack.folder / FRAMES).read_bytes())
    data[int(pack.starts[CHANGED]) * 2 * FRONT.bins] ^= 1
    (pack.folder / FRAMES).write_bytes(data)
    more = added_at_the_end(source)
    pack = prepare(more, packs, reader)
    pack.verify()
    assert reader.names == [f"{CHANGED}.wav", "new.wav"]
    assert read_files(pack.folder) == files_of_new_pack(more, tmp_path)


def files_after(name: str, stop: int, pack: Pack) -> list[str]:
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
    name: str, share: float, source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    """Truncate a file, and check that intact clips are reused."""
    pack = prepare(source, packs)
    original = (pack.folder / name).read_bytes()
    stop = int(share * len(original))
    damaged = files_after(name, stop, pack)
    (pack.folder / name).write_bytes(original[:stop])
    again = prepare(relabelled(source), packs, reader)
    assert read_files(again.folder) == files_of_new_pack(relabelled(source), tmp_path)
    assert reader.names == damaged


@pytest.mark.parametrize("name", [MANIFEST, INDEX, FRAMES, JOURNAL])
def test_pack_with_missing_file_is_repaired(name: str, source: Collection, packs: Path, tmp_path: Path) -> None:
    """Delete a file of a pack whose collection has not changed."""
    pack = prepare(source, packs)
    (pack.folder / name).unlink()
    assert read_files(prepare(source, packs).folder) == files_of_new_pack(source, tmp_path)


@pytest.mark.parametrize(("method", "step"), [("rename", 1), ("rename", 2), *(("replace", i) for i in (2, 3, 4))])
def test_interruption_at_end_loses_no_clip(
    method: str, step: int, source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Interrupt the replacement of an existing pack."""
    prepare(source, packs)
    changed = added_at_the_end(source)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_call(method, step, patch)
        prepare(changed, packs)
    again = prepare(changed, packs, reader)
    assert reader.names == []
    expected = files_of_new_pack(changed, tmp_path)
    assert {name: data for name, data in read_files(again.folder).items() if name in expected} == expected
    assert visible_names(packs) == [again.folder.name]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_interruption_during_label_update_loses_no_clip(
    step: int, source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(source, packs)
    changed = relabelled(touched(source))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_call("replace", step, patch)
        prepare(changed, packs)
    again = prepare(changed, packs, reader)
    assert reader.names == []
    expected = files_of_new_pack(changed, tmp_path)
    assert {name: data for name, data in read_files(again.folder).items() if name in expected} == expected
