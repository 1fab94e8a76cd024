"""Tests of reading packs, writing them atomically and detecting changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.data.pack import FRAMES, INDEX, MANIFEST, Pack, combined_hash, frames_hash
from etude.data.pack_writer import JOURNAL, SKIPPED, write_pack
from etude.data.sources.demo import HOME
from etude.errors import DataError
from etude.files.ownership import LIST_NAME

SAMPLES = (100_000, 30_000, 1, 70_000)
TABLE = pd.DataFrame({"id": list("abcd"), "genre": ["x", "y", None, "x"]}, index=[7, 3, 9, 1])


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Return frames of real clips of several lengths, down to one frame."""
    audio = decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)
    return [frames(audio[:count], LogMelChroma()) for count in SAMPLES]


@pytest.fixture
def pack(clips: list[np.ndarray], tmp_path: Path) -> Pack:
    return write_pack(tmp_path / "packs" / "mine", TABLE, clips, {"name": "mine", "note": "été"})


def test_pack_returns_written_frames(pack: Pack, clips: list[np.ndarray]) -> None:
    opened = Pack(pack.folder)
    pd.testing.assert_frame_equal(opened.index[["id", "genre"]], TABLE.reset_index(drop=True))
    assert opened.lengths.tolist() == [1 + count // 512 for count in SAMPLES]
    assert opened.manifest["name"] == "mine"
    assert (opened.manifest["clips"], opened.manifest["skipped"], opened.manifest["bins"]) == (4, 0, 140)
    assert "été" in (opened.folder / MANIFEST).read_text(encoding="utf-8")
    for row, clip in enumerate(clips):
        read = opened.clip(row)
        assert read.dtype == np.float16
        np.testing.assert_allclose(read[:, :128].astype(np.float32), clip[:, :128], atol=0.04, rtol=0)  # dB
        np.testing.assert_allclose(read[:, 128:].astype(np.float32), clip[:, 128:], atol=3e-4, rtol=0)
    opened.verify()


@pytest.mark.parametrize(("row", "start", "length"), [(0, 0, 5), (0, 100, 50), (1, 58, 1), (1, 50, 100), (3, 7, None)])
def test_crop_is_excerpt_of_clip(pack: Pack, row: int, start: int, length: int | None) -> None:
    stop = None if length is None else start + length
    np.testing.assert_array_equal(pack.clip(row, start, length), pack.clip(row)[start:stop])


def test_frames_of_pack_are_read_only(pack: Pack) -> None:
    with pytest.raises(ValueError, match="read-only"):
        pack.clip(0)[0, 0] = 1.0


def interrupted(clips: list[np.ndarray]) -> Iterator[np.ndarray]:
    yield from clips[:2]
    raise KeyboardInterrupt


def test_interrupted_write_leaves_no_files(clips: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "mine", TABLE, interrupted(clips), {})
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_keeps_old_pack(pack: Pack, clips: list[np.ndarray]) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_pack(pack.folder, TABLE, interrupted(clips), {})
    assert list(pack.folder.parent.iterdir()) == [pack.folder]
    Pack(pack.folder).verify()


def test_old_pack_is_replaced_completely(pack: Pack, clips: list[np.ndarray]) -> None:
    new = write_pack(pack.folder, TABLE[:2], [clips[3], clips[0]], {"name": "other"})
    assert list(pack.folder.parent.iterdir()) == [pack.folder]
    assert {path.name for path in pack.folder.iterdir()} == {LIST_NAME, FRAMES, INDEX, JOURNAL, MANIFEST, SKIPPED}
    assert new.manifest["name"] == "other"
    np.testing.assert_array_equal(new.clip(0), clips[3].astype(np.float16))
    new.verify()
    np.testing.assert_array_equal(pack.clip(1), clips[1].astype(np.float16))  # an opened pack can still be read


@pytest.mark.parametrize("row", range(len(SAMPLES)))
@pytest.mark.parametrize("end", ["first", "last"])
def test_verify_names_corrupted_clip(pack: Pack, row: int, end: str) -> None:
    pack.verify()
    frame = 2 * 140
    start, stop = int(pack.starts[row]) * frame, int(pack.starts[row] + pack.lengths[row]) * frame
    content = bytearray((pack.folder / FRAMES).read_bytes())
    content[start if end == "first" else stop - 1] ^= 1
    (pack.folder / FRAMES).write_bytes(content)
    with pytest.raises(
        DataError, match=rf"^{pack.folder / FRAMES}: clip '{'abcd'[row]}' was changed after it was written; delete"
    ):
        Pack(pack.folder).verify()


def test_hash_depends_only_on_frames(pack: Pack, clips: list[np.ndarray]) -> None:
    half = [np.asarray(clip, np.float16) for clip in clips]
    assert pack.index["content"].tolist() == [frames_hash(clip) for clip in half]
    assert len(set(pack.index["content"])) == len(SAMPLES)
    assert frames_hash(half[0]) == frames_hash(half[0].copy(order="F"))
    assert frames_hash(half[0]) != frames_hash(half[0][:-1])
    assert frames_hash(half[0].reshape(-1, 70)) != frames_hash(half[0])  # as many bytes, other frames
    assert pack.manifest["sha256"] == combined_hash(pack.index["content"])


@pytest.mark.parametrize("name", [INDEX, MANIFEST])
def test_mixed_files_of_two_packs_are_refused(pack: Pack, clips: list[np.ndarray], name: str, tmp_path: Path) -> None:
    """Mix packs with equal numbers of frames and clips, but different values."""
    other = write_pack(tmp_path / "other", TABLE, [clips[0][::-1], *clips[1:]], {"name": "mine"})
    assert other.frames.shape == pack.frames.shape
    (pack.folder / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(DataError, match=rf"^{pack.folder}: is not a complete pack \(the table does not match"):
        Pack(pack.folder)


def test_reordered_index_is_refused(pack: Pack) -> None:
    pack.index[::-1].to_parquet(pack.folder / INDEX)
    with pytest.raises(DataError, match="is not a complete pack"):
        Pack(pack.folder)


@pytest.mark.parametrize("lost", [280, 1, None], ids=["a frame", "a byte", "all"])
def test_truncated_frames_are_refused(pack: Pack, lost: int | None) -> None:
    path = pack.folder / FRAMES
    path.write_bytes(b"" if lost is None else path.read_bytes()[:-lost])
    with pytest.raises(DataError, match=rf"^{pack.folder}: is not a complete pack .*; delete the folder"):
        Pack(pack.folder)


@pytest.mark.parametrize("name", [FRAMES, INDEX, MANIFEST])
@pytest.mark.parametrize("content", [None, b"{}", b"\x00\xff"], ids=["missing", "other", "garbled"])
def test_folder_with_invalid_file_is_refused(pack: Pack, name: str, content: bytes | None) -> None:
    (pack.folder / name).unlink()
    if content is not None:
        (pack.folder / name).write_bytes(content)
    with pytest.raises(DataError, match="is not a complete pack"):
        Pack(pack.folder)


def test_manifest_that_is_a_list_is_refused(pack: Pack) -> None:
    (pack.folder / MANIFEST).write_text("[1, 2]")
    with pytest.raises(DataError, match="is not a complete pack"):
        Pack(pack.folder)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/none: is not a complete pack"):
        Pack(tmp_path / "none")


def test_frames_newer_than_manifest_are_verified(pack: Pack) -> None:
    data = bytearray((pack.folder / FRAMES).read_bytes())
    data[len(data) // 2] ^= 1
    (pack.folder / FRAMES).write_bytes(data)
    later = (pack.folder / MANIFEST).stat().st_mtime_ns + 10**9
    os.utime(pack.folder / FRAMES, ns=(later, later))
    with pytest.raises(DataError, match="was changed after it was written"):
        Pack(pack.folder)


def test_intact_frames_are_verified_once(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    (pack.folder / FRAMES).write_bytes((pack.folder / FRAMES).read_bytes())
    earlier = (pack.folder / FRAMES).stat().st_mtime_ns - 10**9
    os.utime(pack.folder / MANIFEST, ns=(earlier, earlier))
    Pack(pack.folder)
    monkeypatch.setattr(Pack, "verify", None)
    Pack(pack.folder)
