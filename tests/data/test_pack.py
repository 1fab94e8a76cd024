"""A pack gives back what was written, is there whole or not at all, and notices what was done to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etude.audio.decode import decode
from etude.audio.spectral import FrontEnd, frames
from etude.data.pack import FRAMES, INDEX, MANIFEST, Pack, write
from etude.data.sources.demo import HOME
from etude.errors import DataError

SAMPLES = (100_000, 30_000, 1, 70_000)
TABLE = pd.DataFrame({"id": list("abcd"), "genre": ["x", "y", None, "x"]}, index=[7, 3, 9, 1])


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Frames of real clips of several lengths, down to one frame."""
    audio = decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)
    return [frames(audio[:count], FrontEnd()) for count in SAMPLES]


@pytest.fixture
def pack(clips: list[np.ndarray], tmp_path: Path) -> Pack:
    return write(tmp_path / "packs" / "mine", TABLE, clips, {"name": "mine"}, {"note.txt": "été"})


def test_what_is_written_is_read(pack: Pack, clips: list[np.ndarray]) -> None:
    opened = Pack(pack.folder)
    assert opened.index[["id", "genre"]].equals(TABLE.reset_index(drop=True))
    assert opened.lengths.tolist() == [1 + count // 512 for count in SAMPLES]
    assert opened.manifest["name"] == "mine"
    assert (opened.manifest["clips"], opened.manifest["bins"]) == (4, 140)
    assert (opened.folder / "note.txt").read_text(encoding="utf-8") == "été"
    for row, clip in enumerate(clips):
        read = opened.clip(row)
        assert read.dtype == np.float16
        np.testing.assert_allclose(read[:, :128].astype(np.float32), clip[:, :128], atol=0.04, rtol=0)  # dB
        np.testing.assert_allclose(read[:, 128:].astype(np.float32), clip[:, 128:], atol=3e-4, rtol=0)
    opened.verify()


@pytest.mark.parametrize(("row", "start", "length"), [(0, 0, 5), (0, 100, 50), (1, 58, 1), (1, 50, 100), (3, 7, None)])
def test_a_crop_is_a_part_of_its_clip(pack: Pack, row: int, start: int, length: int | None) -> None:
    stop = None if length is None else start + length
    np.testing.assert_array_equal(pack.clip(row, start, length), pack.clip(row)[start:stop])


def test_frames_cannot_be_changed_through_a_pack(pack: Pack) -> None:
    with pytest.raises(ValueError, match="read-only"):
        pack.clip(0)[0, 0] = 1.0


def interrupted(clips: list[np.ndarray]) -> Iterator[np.ndarray]:
    yield from clips[:2]
    raise KeyboardInterrupt


def test_an_interrupted_writing_leaves_nothing(clips: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "mine", TABLE, interrupted(clips), {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writing_leaves_the_old_pack(pack: Pack, clips: list[np.ndarray]) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(pack.folder, TABLE, interrupted(clips), {})
    assert list(pack.folder.parent.iterdir()) == [pack.folder]
    Pack(pack.folder).verify()


def test_an_old_pack_is_replaced_whole(pack: Pack, clips: list[np.ndarray]) -> None:
    new = write(pack.folder, TABLE[:2], [clips[3], clips[0]], {"name": "other"})
    assert list(pack.folder.parent.iterdir()) == [pack.folder]
    assert {path.name for path in pack.folder.iterdir()} == {FRAMES, INDEX, MANIFEST}
    assert new.manifest["name"] == "other"
    np.testing.assert_array_equal(new.clip(0), clips[3].astype(np.float16))
    new.verify()
    np.testing.assert_array_equal(pack.clip(1), clips[1].astype(np.float16))  # who still reads the old one, can


def test_verify_finds_one_flipped_bit(pack: Pack) -> None:
    path = pack.folder / FRAMES
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="was changed after it was written; delete the folder"):
        Pack(pack.folder).verify()


@pytest.mark.parametrize("lost", [280, 1, None], ids=["a frame", "a byte", "all"])
def test_truncated_frames_are_refused(pack: Pack, lost: int | None) -> None:
    path = pack.folder / FRAMES
    path.write_bytes(b"" if lost is None else path.read_bytes()[:-lost])
    with pytest.raises(DataError, match=rf"^{pack.folder}: is not a whole pack .*; delete the folder"):
        Pack(pack.folder)


@pytest.mark.parametrize("name", [FRAMES, INDEX, MANIFEST])
@pytest.mark.parametrize("content", [None, b"{}", b"\x00\xff"], ids=["missing", "other", "garbled"])
def test_a_folder_without_a_good_file_is_no_pack(pack: Pack, name: str, content: bytes | None) -> None:
    (pack.folder / name).unlink()
    if content is not None:
        (pack.folder / name).write_bytes(content)
    with pytest.raises(DataError, match="is not a whole pack"):
        Pack(pack.folder)
