"""Tests of the reuse of prepared packs and of unchanged clips."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.packing.preparation import (
    COUNT,
    FRONT,
    TARGETS,
    Change,
    RecordingReader,
    assert_frames,
    files_of_new_pack,
    parametrize_changes,
    prepare,
    read_files,
    visible_names,
)

from etude.data.collection import Collection
from etude.data.pack import FRAMES, INDEX, MANIFEST, PackOptions
from etude.data.pack_writer import JOURNAL, SKIPPED
from etude.data.packing import prepare_pack
from etude.files.ownership import LIST_NAME


def test_pack_has_frames_of_each_clip_in_order(source: Collection, packs: Path) -> None:
    pack = prepare(source, packs)
    assert_frames(pack, source.table)
    assert set(read_files(pack.folder)) == {LIST_NAME, FRAMES, INDEX, JOURNAL, MANIFEST, SKIPPED}
    assert "path" not in pack.index  # a pack can be copied to other machines
    assert b"/tmp" not in b"".join(read_files(pack.folder).values())
    description = pack.manifest["origin"]["collection"]
    assert (description["name"], description["title"], description["targets"]) == ("mine", "Mine", TARGETS)
    assert (pack.manifest["clips"], pack.manifest["skipped"]) == (COUNT, 0)
    pack.verify()


def test_pack_is_prepared_once(source: Collection, packs: Path, reader: RecordingReader) -> None:
    first = prepare(source, packs, reader)
    assert reader.names == [f"{i}.wav" for i in range(COUNT)]
    before = read_files(first.folder)
    stamps = [path.stat().st_mtime_ns for path in sorted(first.folder.iterdir())]
    second = prepare(source, packs, reader)
    assert len(reader.names) == COUNT
    assert second.folder == first.folder
    assert read_files(second.folder) == before
    # the files were not written again
    assert [path.stat().st_mtime_ns for path in sorted(first.folder.iterdir())] == stamps
    assert visible_names(packs) == [first.folder.name]


@pytest.mark.parametrize("change", [{"hop_length": 256}, {"tuning": None}, {"sync": "beat"}], ids=str)
def test_other_front_end_gets_separate_pack(
    source: Collection, packs: Path, reader: RecordingReader, change: dict[str, Any]
) -> None:
    first = prepare(source, packs)
    other = prepare_pack(source, replace(FRONT, **change), PackOptions(packs, workers=1))
    assert other.folder != first.folder
    assert not np.array_equal(other.frames[:5], first.frames[:5])
    assert prepare(source, packs, reader).folder == first.folder
    assert reader.names == []


@parametrize_changes
def test_only_changed_clips_of_finished_pack_are_computed(
    change: Change, again: list[str], source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    prepare(source, packs)
    changed = change(source)
    pack = prepare(changed, packs, reader)
    assert reader.names == again
    assert_frames(pack, changed.table)
    assert read_files(pack.folder) == files_of_new_pack(changed, tmp_path)
    assert visible_names(packs) == [pack.folder.name]
    reader.names.clear()
    prepare(changed, packs, reader)
    assert reader.names == []


def test_default_limit_does_not_change_name_of_pack(source: Collection, packs: Path) -> None:
    assert "longest" not in prepare(source, packs).manifest["origin"]
    assert prepare(source, packs, longest=None).folder != prepare(source, packs).folder


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
