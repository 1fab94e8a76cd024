"""Tests of skipped and suspect clips and of their limit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.data.packing.preparation import (
    CHANGED,
    COUNT,
    FRONT,
    RecordingReader,
    added_at_the_end,
    assert_frames,
    files_of_new_pack,
    prepare,
    read_files,
    relabelled,
    skipped_reasons,
    visible_names,
)

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma
from etude.data.audio_files import SkippedItem, read_sound
from etude.data.collection import Collection
from etude.data.pack import FRAMES, PackOptions
from etude.data.pack_writer import SKIPPED, SUSPECT
from etude.data.packing import prepare_pack
from etude.data.sources import folder
from etude.data.sources.demo import HOME
from etude.errors import DataError, UserError


def test_undecodable_clip_is_skipped_and_listed(source: Collection, packs: Path) -> None:
    broken = source.table["path"][4]
    Path(broken).write_text("no music")
    pack = prepare(source, packs)
    ((clip, reason),) = skipped_reasons(pack).items()
    assert clip == "clip4"
    assert reason.startswith(f"{broken}: cannot be decoded")
    assert_frames(pack, source.table.drop(index=4))
    assert (pack.manifest["clips"], pack.manifest["skipped"]) == (COUNT - 1, 1)


def test_skipped_clip_is_retried_only_after_file_changed(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    """Check that changed labels do not cause a broken file to be decoded again."""
    broken = Path(source.table["path"][4])
    original = broken.read_bytes()
    broken.write_text("no music")
    prepare(source, packs)
    prepare(source, packs, reader)
    prepare(relabelled(source), packs, reader)
    more = added_at_the_end(source)
    prepare(more, packs, reader)
    assert reader.names == ["new.wav"]
    broken.write_bytes(original)
    pack = prepare(more, packs, reader)
    assert reader.names == ["new.wav", "4.wav"]
    assert skipped_reasons(pack) == {}
    assert read_files(pack.folder) == files_of_new_pack(more, tmp_path)


def test_missing_file_is_added_when_it_exists(source: Collection, packs: Path, reader: RecordingReader) -> None:
    path = Path(source.table["path"][4])
    hidden = path.rename(path.with_suffix(".hidden"))
    pack = prepare(source, packs, reader)
    assert skipped_reasons(pack) == {"clip4": f"{path}: there is no such file"}
    hidden.rename(path)
    reader.names.clear()
    pack = prepare(source, packs, reader)
    assert reader.names == ["4.wav"]
    assert_frames(pack, source.table)


def test_named_pipe_is_skipped(source: Collection, packs: Path) -> None:
    path = Path(source.table["path"][4])
    path.unlink()
    os.mkfifo(path)  # opening a pipe waits for a writer
    assert skipped_reasons(prepare(source, packs)) == {"clip4": f"{path}: is not a regular file"}


def test_retry_reads_only_skipped_clips(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    """Retry skipped clips, as after an installation of ffmpeg."""
    reader.unreadable = {"4.wav"}
    pack = prepare(source, packs, reader)
    assert list(skipped_reasons(pack)) == ["clip4"]
    reader.unreadable.clear()
    reader.names.clear()
    prepare(source, packs, reader)
    assert reader.names == []
    pack = prepare(source, packs, reader, retry=True)
    assert reader.names == ["4.wav"]
    assert read_files(pack.folder) == files_of_new_pack(source, tmp_path)


def test_retry_reads_clips_skipped_by_draft(
    source: Collection, packs: Path, reader: RecordingReader, tmp_path: Path
) -> None:
    reader.unreadable = {"2.wav", "5.wav"}
    with pytest.raises(DataError, match=r"more than data\.max_skipped"):
        prepare(source, packs, reader)
    reader.unreadable.clear()
    reader.names.clear()
    pack = prepare(source, packs, reader, retry=True)
    assert sorted(reader.names) == sorted(["2.wav", *(f"{i}.wav" for i in range(5, COUNT))])
    assert read_files(pack.folder) == files_of_new_pack(source, tmp_path)


def test_too_many_broken_clips_are_refused_early(source: Collection, packs: Path, reader: RecordingReader) -> None:
    reader.unreadable = {f"{i}.wav" for i in range(COUNT)}
    with pytest.raises(DataError) as error:
        prepare(source, packs, reader)
    assert str(error.value) == (
        "mine: 2 of 12 clips were skipped, more than data.max_skipped=0.1 allows; for example "
        f"{source.table['path'][0]}: cannot be decoded; repair or remove these files, or increase data.max_skipped"
    )
    assert reader.names == ["0.wav", "1.wav"]
    assert visible_names(packs) == []  # no files are left


def test_number_of_missing_files_is_stated_when_the_first_are_refused(
    source: Collection, packs: Path, reader: RecordingReader
) -> None:
    table = source.table.assign(path=[f"gone/{i}.wav" for i in range(COUNT)])
    with pytest.raises(DataError, match=r"2 of 12 clips were skipped.*; 12 of the 12 files do not exist; repair"):
        prepare(replace(source, table=table), packs, reader)


def test_clips_before_too_many_broken_are_kept(source: Collection, packs: Path, reader: RecordingReader) -> None:
    reader.unreadable = {"2.wav", "5.wav"}
    with pytest.raises(DataError, match=r"2 of 12 clips were skipped"):
        prepare(source, packs, reader)
    assert reader.names == [f"{i}.wav" for i in range(6)]
    pack = prepare(source, packs, reader, max_skipped=0.2)
    assert reader.names == [f"{i}.wav" for i in range(COUNT)]
    assert list(skipped_reasons(pack)) == ["clip2", "clip5"]


def test_repeated_call_does_not_allow_more_broken_clips(
    source: Collection, packs: Path, reader: RecordingReader
) -> None:
    """Check that clips skipped by an interrupted draft are counted."""
    reader.unreadable = {"2.wav", "5.wav"}
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 of 12 clips were skipped"):
            prepare(source, packs, reader)


@pytest.mark.parametrize("share", [0.0, 0.08])
def test_zero_broken_clips_can_be_required(share: float, source: Collection, packs: Path) -> None:
    Path(source.table["path"][4]).write_text("no music")
    with pytest.raises(DataError, match=f"1 of 12 clips were skipped, more than data.max_skipped={share:g}"):
        prepare(source, packs, max_skipped=share)


def test_collection_without_decodable_clips_is_refused_for_any_limit(
    source: Collection, packs: Path, reader: RecordingReader
) -> None:
    reader.unreadable = {f"{i}.wav" for i in range(COUNT)}
    with pytest.raises(DataError, match=r"^mine: .*0\.wav: cannot be decoded"):
        prepare(source, packs, reader, max_skipped=1.0)


def test_short_clips_are_skipped(source: Collection, packs: Path) -> None:
    """Skip short clips, where clip i has 5000 + 900 i samples."""
    pack = prepare(source, packs, shortest=0.3, max_skipped=0.5)
    assert pack.index["id"].tolist() == [f"clip{i}" for i in range(2, COUNT)]
    assert skipped_reasons(pack) == {
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
        "x/text": "x/text.mp3: cannot be decoded (it contains no audio in a format that libsndfile supports",
        "y/gone": "y/gone.wav: there is no such file",
        "y/half": "y/half.flac: is broken (",
        "y/nan": "y/nan.wav: contains NaN or infinite samples",
        "y/playlist": "y/playlist.m4a: cannot be decoded (",
        "y/short": "y/short.wav: is too short (0.10 s, at least 0.5 s are needed)",
    }
    reasons = skipped_reasons(pack)
    assert set(reasons) == set(expected)
    for clip, sentence in expected.items():
        assert reasons[clip].startswith(f"{home}/{sentence}"), reasons[clip]
        assert "\n" not in reasons[clip]


def test_frames_beyond_half_precision_are_skipped(source: Collection, packs: Path) -> None:
    def loud(path: Path, front: LogMelChroma, shortest: float) -> np.ndarray:
        result = read_sound(path, front, shortest)
        return result * 1e6 if path.name == "4.wav" else result

    pack = prepare(replace(source, reader=loud), packs)
    assert skipped_reasons(pack) == {"clip4": f"{source.table['path'][4]}: has frames that are not finite"}


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


def test_skipped_items_of_source_are_listed_with_clips(source: Collection, packs: Path) -> None:
    Path(source.table["path"][CHANGED]).write_bytes(b"no music")
    notes = replace(source, skipped_items=(SkippedItem("notes.txt", "suffix .txt is not an audio format"),))
    pack = prepare(notes, packs)
    assert (pack.manifest["skipped"], pack.manifest["left_out"]) == (1, 1)
    listed = pd.read_csv(pack.folder / SKIPPED)
    assert listed["id"].tolist() == [f"clip{CHANGED}", "notes.txt"]
    assert listed["reason"][1] == "suffix .txt is not an audio format"
    stamp = (pack.folder / FRAMES).stat().st_mtime_ns
    more = replace(notes, skipped_items=(*notes.skipped_items, SkippedItem("row 9", "path is empty", clip=True)))
    again = prepare(more, packs)
    assert pd.read_csv(again.folder / SKIPPED)["id"].tolist() == [f"clip{CHANGED}", "notes.txt", "row 9"]
    assert (again.folder / FRAMES).stat().st_mtime_ns == stamp
    assert "left_out" not in prepare(source, packs).manifest


def test_clips_skipped_by_source_count_for_max_skipped(source: Collection, packs: Path) -> None:
    lost = tuple(SkippedItem(f"row {i}", "path is empty", clip=True) for i in range(4))
    with pytest.raises(DataError, match=r"4 of 16 clips were skipped.*for example row 0: path is empty"):
        prepare(replace(source, skipped_items=lost), packs, max_skipped=0.2)
    assert not [path for path in packs.iterdir() if path.is_dir()]
    assert len(prepare(replace(source, skipped_items=lost), packs, max_skipped=0.25).index) == COUNT
    others = tuple(replace(item, clip=False) for item in lost)
    assert len(prepare(replace(source, skipped_items=others), packs, max_skipped=0.0).index) == COUNT
