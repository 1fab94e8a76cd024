"""Tests of crash-safe writing of packs, after which resumed drafts have the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.data.readers import interrupt_call

from etude.data.pack import FRAMES, INDEX, MANIFEST, Pack, frames_hash
from etude.data.pack_writer import (
    JOURNAL,
    SKIPPED,
    JournalEntry,
    PackWriter,
    read_journal,
    recover_pack,
    replace_pack,
    rewrite_journal,
    write_index,
    write_pack,
)
from etude.errors import DataError
from etude.files.atomic import remove_folder, write_text
from etude.files.ownership import LIST_NAME, open_folder

LENGTHS = (3, 1, 0, 5, 2)  # the clip in the middle is skipped
BINS = 4
NAMES = ("one", "été ♫", "drei", "4", "fünf")


def clip_frames(index: int) -> np.ndarray:
    return np.random.default_rng(index).random((LENGTHS[index], BINS)).astype(np.float16)


def journal_entry(index: int) -> JournalEntry:
    identity = {"id": NAMES[index], "size": 100 + index, "modified": 10**18 + index}
    if not LENGTHS[index]:
        return JournalEntry(**identity, reason="/a/drei: is broken (“why”)")
    frames = clip_frames(index)
    return JournalEntry(**identity, sha256=f"{index:064}", frames=len(frames), bins=BINS, content=frames_hash(frames))


ENTRIES = [journal_entry(index) for index in range(len(LENGTHS))]
TABLE = pd.DataFrame({"id": NAMES, "genre": list("xyxyx")})


def finish_draft(folder: Path) -> PackWriter:
    """Open a draft and append the missing clips."""
    with PackWriter(folder) as draft:
        for index in range(len(draft.entries), len(LENGTHS)):
            draft.append(ENTRIES[index], clip_frames(index) if LENGTHS[index] else None)
    return draft


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def complete_files(tmp_path: Path) -> dict[str, bytes]:
    """Return the files of a draft without interruption."""
    finish_draft(tmp_path / "complete_files")
    return read_files(tmp_path / "complete_files")


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / LIST_NAME).write_text(f'"{FRAMES}"\n"{JOURNAL}"\n')
    return folder


def test_draft_has_frames_in_order_and_line_for_each_clip(complete_files: dict[str, bytes]) -> None:
    assert set(complete_files) == {LIST_NAME, FRAMES, JOURNAL}
    assert complete_files[FRAMES] == b"".join(clip_frames(index).tobytes() for index in range(len(LENGTHS)))
    lines = complete_files[JOURNAL].decode().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(NAMES)
    assert "♫" in lines[1]  # readable text


@pytest.mark.parametrize("name", ["a b", "ünï", "a\tb", "a\nb", 'a"b\\', "a\u2028b", "a\x85b", "a\x1cb", "\U0001f3b5"])
def test_any_clip_name_is_one_journal_line(name: str, tmp_path: Path) -> None:
    frames = clip_frames(0)
    unusual = JournalEntry(name, 5, 7, "s", len(frames), BINS, frames_hash(frames))
    skipped = JournalEntry("after", 1, 2, reason=f"/music/{name}: is broken")
    with PackWriter(tmp_path / "d") as draft:
        draft.append(unusual, frames)
        draft.append(skipped, None)
    assert read_journal(tmp_path / "d") == [unusual, skipped]
    with PackWriter(tmp_path / "d") as draft:
        assert draft.entries == [unusual, skipped]


def test_unset_fields_are_not_written(tmp_path: Path) -> None:
    minimal = JournalEntry("a", -1, 0)
    with PackWriter(tmp_path / "d") as draft:
        draft.append(minimal, None)
    assert json.loads((tmp_path / "d" / JOURNAL).read_text()) == {"id": "a", "size": -1, "modified": 0}
    assert read_journal(tmp_path / "d") == [minimal]


def test_missing_journal_is_empty(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none") == []
    assert read_journal(tmp_path) == []


def lines_before(text: bytes, stop: int) -> int:
    return text[:stop].count(b"\n")


def test_truncated_journal_resumes_after_last_complete_line(complete_files: dict[str, bytes], tmp_path: Path) -> None:
    """Cut the journal at each byte, also inside a character."""
    text = complete_files[JOURNAL]
    for stop in (*range(0, len(text) - 60, 11), *range(len(text) - 60, len(text))):
        folder = write_files(tmp_path / "cut", complete_files | {JOURNAL: text[:stop]})
        with PackWriter(folder) as draft:
            assert draft.entries == ENTRIES[: lines_before(text, stop)], stop
        assert len((folder / FRAMES).read_bytes()) == sum(entry.bytes for entry in draft.entries)
        finish_draft(folder)
        assert read_files(folder) == complete_files, stop


def test_truncated_frames_resume_after_last_complete_clip(complete_files: dict[str, bytes], tmp_path: Path) -> None:
    """Cut the frames, as after a power failure, when the journal may be complete before the frames."""
    frames = complete_files[FRAMES]
    ends = np.cumsum([entry.bytes for entry in ENTRIES])
    for stop in range(len(frames)):
        folder = write_files(tmp_path / "cut", complete_files | {FRAMES: frames[:stop]})
        with PackWriter(folder) as draft:
            assert len(draft.entries) == np.argmax(ends > stop), stop
        finish_draft(folder)
        assert read_files(folder) == complete_files, stop


@pytest.mark.parametrize("more", [b"\x00", b"\x01" * 7, b"\xff" * 5000])
@pytest.mark.parametrize("lines", [0, 2, 5])
def test_frames_behind_the_last_line_are_dropped(
    more: bytes, lines: int, complete_files: dict[str, bytes], tmp_path: Path
) -> None:
    """Append frames without a line, as after a kill between writing the frames and their line."""
    text = b"".join(complete_files[JOURNAL].splitlines(keepends=True)[:lines])
    kept = complete_files[FRAMES][: sum(entry.bytes for entry in ENTRIES[:lines])]
    folder = write_files(tmp_path / "cut", {JOURNAL: text, FRAMES: kept + more})
    with PackWriter(folder) as draft:
        assert len(draft.entries) == lines
    assert (folder / FRAMES).read_bytes() == kept
    finish_draft(folder)
    assert read_files(folder) == complete_files


@pytest.mark.parametrize("index", [0, 1, 3, 4])
def test_frames_that_do_not_match_journal_are_written_again(
    index: int, complete_files: dict[str, bytes], tmp_path: Path
) -> None:
    data = bytearray(complete_files[FRAMES])
    data[sum(entry.bytes for entry in ENTRIES[:index])] ^= 0x40
    folder = write_files(tmp_path / "cut", complete_files | {FRAMES: bytes(data)})
    with PackWriter(folder) as draft:
        assert draft.entries == ENTRIES[:index]
    finish_draft(folder)
    assert read_files(folder) == complete_files


@pytest.mark.parametrize(
    "line",
    [
        b"\x00" * 300 + b"\n",
        b"{}\n",
        b"[1, 2]\n",
        b'{"id": "x", "size": 1, "modified": 2, "colour": "red"}\n',
        b"\xff\n",
    ],
)
@pytest.mark.parametrize("index", [0, 2, 4])
def test_damaged_line_ends_journal(line: bytes, index: int, complete_files: dict[str, bytes], tmp_path: Path) -> None:
    lines = complete_files[JOURNAL].splitlines(keepends=True)
    folder = write_files(
        tmp_path / "cut", complete_files | {JOURNAL: b"".join([*lines[:index], line, *lines[index + 1 :]])}
    )
    with PackWriter(folder) as draft:
        assert draft.entries == ENTRIES[:index]
    finish_draft(folder)
    assert read_files(folder) == complete_files


def test_draft_without_frames_starts_again(complete_files: dict[str, bytes], tmp_path: Path) -> None:
    folder = write_files(tmp_path / "cut", {JOURNAL: complete_files[JOURNAL]})
    finish_draft(folder)
    assert read_files(folder) == complete_files


def test_finished_draft_is_pack(complete_files: dict[str, bytes], tmp_path: Path) -> None:
    folder = write_files(tmp_path / ".mine.part", complete_files)
    with PackWriter(folder) as draft:
        pack = draft.finish(tmp_path / "mine", TABLE, {"origin": {"name": "mine"}})
    assert not folder.exists()
    assert {path.name for path in pack.folder.iterdir()} == {LIST_NAME, FRAMES, INDEX, JOURNAL, MANIFEST, SKIPPED}
    kept = [index for index, length in enumerate(LENGTHS) if length]
    assert pack.index["id"].tolist() == [NAMES[index] for index in kept]
    assert pack.index["genre"].tolist() == [TABLE["genre"][index] for index in kept]
    assert pack.index["start"].tolist() == [0, 3, 4, 9]
    for row, index in enumerate(kept):
        np.testing.assert_array_equal(pack.clip(row), clip_frames(index))
    pack.verify()
    skipped = pd.read_csv(pack.folder / SKIPPED)
    assert skipped.to_dict("records") == [{"id": "drei", "reason": "/a/drei: is broken (“why”)"}]
    assert read_journal(pack.folder) == ENTRIES
    assert (pack.manifest["clips"], pack.manifest["skipped"]) == (4, 1)


def test_index_can_be_rewritten_without_frames(complete_files: dict[str, bytes], tmp_path: Path) -> None:
    with PackWriter(write_files(tmp_path / ".mine.part", complete_files)) as draft:
        pack = draft.finish(tmp_path / "mine", TABLE, {"origin": 1})
    later = [JournalEntry(**{**vars(entry), "modified": 3}) for entry in ENTRIES]
    rewrite_journal(pack.folder, later)
    write_index(pack.folder, later, TABLE.assign(genre="z"), {"origin": 2})
    again = Pack(pack.folder)
    assert read_journal(again.folder) == later
    assert set(again.index["genre"]) == {"z"}
    assert again.manifest["origin"] == 2
    assert again.manifest["sha256"] == pack.manifest["sha256"]
    assert {path.name for path in again.folder.iterdir()} == {LIST_NAME, FRAMES, INDEX, JOURNAL, MANIFEST, SKIPPED}
    again.verify()


def write_two_packs(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "mine", tmp_path / ".mine.part"
    write_pack(old, TABLE[:1], [clip_frames(0)], {"which": "old"})
    write_pack(tmp_path / "new", TABLE[:1], [clip_frames(1)], {"which": "new"})
    (tmp_path / "new").rename(new)
    return old, new


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_pack_is_replaced(tmp_path: Path) -> None:
    old, new = write_two_packs(tmp_path)
    replace_pack(new, old)
    assert file_names(tmp_path) == {"mine"}
    assert Pack(old).manifest["which"] == "new"
    recover_pack(old)
    assert Pack(old).manifest["which"] == "new"


@pytest.mark.parametrize("step", [1, 2])
def test_interrupted_replacement_is_recovered(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the replacement between two renames, after which the old pack is restored."""
    old, new = write_two_packs(tmp_path)
    interrupt_call("rename", step, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        replace_pack(new, old)
    monkeypatch.undo()
    assert file_names(tmp_path) == {".mine.part", "mine" if step == 1 else ".mine.old"}
    recover_pack(old)
    assert file_names(tmp_path) == {".mine.part", "mine"}
    assert Pack(old).manifest["which"] == "old"
    assert Pack(new).manifest["which"] == "new"
    replace_pack(new, old)
    assert file_names(tmp_path) == {"mine"}
    assert Pack(old).manifest["which"] == "new"


def test_leftovers_of_interrupted_replacement_are_removed(tmp_path: Path) -> None:
    old, new = write_two_packs(tmp_path)
    write_pack(tmp_path / "older", TABLE[:1], [clip_frames(3)], {"which": "older"})
    (tmp_path / "older").rename(tmp_path / ".mine.old")
    recover_pack(old)
    assert file_names(tmp_path) == {".mine.part", "mine"}
    assert Pack(old).manifest["which"] == "old"
    replace_pack(new, old)
    assert Pack(old).manifest["which"] == "new"


@pytest.mark.parametrize(("method", "step"), [("replace", 1), ("replace", 2), ("replace", 3), ("rename", 1)])
def test_interrupted_finish_leaves_no_temporary_files(
    method: str, step: int, complete_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the renaming of temporary files, which must not remain in the pack."""
    with PackWriter(write_files(tmp_path / ".expected.part", complete_files)) as draft:
        expected = read_files(draft.finish(tmp_path / "expected", TABLE, {"origin": 1}).folder)
    folder = write_files(tmp_path / ".mine.part", complete_files)
    interrupt_call(method, step, monkeypatch)
    with pytest.raises(KeyboardInterrupt), PackWriter(folder) as draft:
        draft.finish(tmp_path / "mine", TABLE, {"origin": 1})
    monkeypatch.undo()
    monkeypatch.setattr("os.getpid", lambda: 1)  # another process resumes
    with PackWriter(folder) as draft:
        assert draft.entries == ENTRIES
        again = draft.finish(tmp_path / "mine", TABLE, {"origin": 1})
    assert read_files(again.folder) == expected


@pytest.mark.parametrize("name", ["report.html", "run/report.html"])
def test_run_in_folder_of_pack_is_not_removed(name: str, tmp_path: Path) -> None:
    def pack() -> Pack:
        clips = [clip_frames(index) for index in range(len(LENGTHS)) if LENGTHS[index]]
        return write_pack(tmp_path / "pack", TABLE.drop(index=2).reset_index(drop=True), clips, {})

    pack()
    path = tmp_path / "pack" / name
    open_folder(path.parent)
    write_text(path, "a report")
    with pytest.raises(DataError, match=f"other files \\({name.split('/')[0]}"):
        pack()
    assert path.read_text() == "a report"
    assert not remove_folder(tmp_path / "pack") or name == "report.html"
    assert path.exists() == (name != "report.html")
