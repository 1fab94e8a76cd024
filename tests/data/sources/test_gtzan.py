"""Tests of the source of GTZAN."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from etude.audio.log_mel import LogMelChroma
from etude.config.validation import config_errors
from etude.data.pack import PackOptions
from etude.data.packing import prepare_pack
from etude.data.sources.gtzan import BROKEN, GENRES, SPLIT, collection, read_split
from etude.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with some clips as .wav and .au files, and other files of GTZAN copies."""
    samples = 0.1 * np.sin(np.arange(2205) / 9)
    for genre in GENRES:
        (tmp_path / genre).mkdir()
        soundfile.write(tmp_path / genre / f"{genre}.00000.wav", samples, 22050)
        soundfile.write(tmp_path / genre / f"{genre}.00001.au", samples, 22050, format="AU", subtype="PCM_16")
    soundfile.write(tmp_path / "rock" / "rock.00001.wav", samples, 22050)
    (tmp_path / "jazz" / f"{BROKEN}.wav").write_bytes(b"\0" * 64)
    (tmp_path / "jazz" / "._jazz.00000.wav").write_bytes(b"\0")
    (tmp_path / "bextract.mf").write_text("blues.00000.wav\tblues\n")
    return tmp_path


def test_split_matches_publication() -> None:
    splits = read_split()
    assert Counter(splits.values()) == {"train": 443, "val": 197, "test": 290}
    assert set(splits) < {f"{genre}.{number:05d}" for genre in GENRES for number in range(100)}
    counts = Counter((clip.split(".")[0], split) for clip, split in splits.items())
    assert {genre: [counts[genre, split] for split in ("train", "val", "test")] for genre in GENRES} == {
        "blues": [46, 23, 31],
        "classical": [48, 20, 31],
        "country": [45, 23, 30],
        "disco": [42, 22, 29],
        "hiphop": [47, 18, 27],
        "jazz": [43, 17, 27],
        "metal": [44, 20, 27],
        "pop": [41, 13, 30],
        "reggae": [43, 17, 26],
        "rock": [44, 24, 32],
    }
    known = {"blues.00000": "val", "blues.00029": "train", "blues.00099": "test", "rock.00085": "val", BROKEN: "train"}
    assert known.items() <= splits.items()


def test_split_has_no_duplicate_lines() -> None:
    lines = SPLIT.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,split"
    assert len(lines) == 931
    assert [line.split(",")[0] for line in lines[1:]] == sorted(read_split())


def test_filtered_clips_have_official_split(folder: Path) -> None:
    source = collection(str(folder))
    assert source.name == "gtzan"
    assert Counter(source.table["split"]) == {"train": 442, "val": 197, "test": 290}
    assert dict(zip(source.table["id"], source.table["split"], strict=True)).items() < read_split().items()
    assert source.title == "GTZAN: 929 clips in ten genres, fault-filtered"
    assert source.title in source.card


def test_all_clips_have_no_split(folder: Path) -> None:
    source = collection(str(folder), filtered=False)
    assert source.name == "gtzan_all"
    assert "split" not in source.table
    assert source.table["genre"].value_counts().to_dict() == {genre: 100 - (genre == "jazz") for genre in GENRES}


@pytest.mark.parametrize("filtered", [True, False])
def test_rows_have_genre_and_path(folder: Path, filtered: bool) -> None:
    source = collection(str(folder), filtered)
    assert BROKEN not in set(source.table["id"])
    assert source.table["group"].isna().all()
    assert (source.table["genre"] == source.table["id"].str.split(".").str[0]).all()
    assert source.targets == {"genre": {"kind": "label", "classes": list(GENRES), "note": ""}}
    assert "Only the official split" in source.note
    assert "Sturm (2013)" in source.card
    path = source.table.set_index("id")["path"]
    assert path["metal.00000"] == str(folder / "metal" / "metal.00000.wav")
    assert path["metal.00001"] == str(folder / "metal" / "metal.00001.au")
    assert path["rock.00001"] == str(folder / "rock" / "rock.00001.wav")
    assert path["rock.00099"] == str(folder / "rock" / "rock.00099.wav")  # missing; its row has the expected path


def test_wav_and_au_are_read(folder: Path) -> None:
    table = collection(str(folder), filtered=False).table
    existing = table[[Path(path).is_file() for path in table["path"]]]
    assert len(existing) == 20
    assert Counter(soundfile.info(path).format for path in existing["path"]) == {"WAV": 11, "AU": 9}


@pytest.mark.parametrize("filtered", [True, False])
def test_folder_without_clips_is_refused(tmp_path: Path, filtered: bool) -> None:
    (tmp_path / "jazz").mkdir()
    (tmp_path / "jazz" / f"{BROKEN}.wav").write_bytes(b"")
    message = (
        r"has no clip of GTZAN, such as blues/blues\.00000\.wav \(or \.au, \.flac, \.ogg, \.mp3\); data\.source\.path "
        r"must be the folder that contains blues, classical, country, \.\.\.$"
    )
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"^{folder}: {message}"):
            collection(str(folder), filtered)


def test_config_instantiates_source(folder: Path, config: Callable[..., dict[str, Any]]) -> None:
    composed = config("data=gtzan", f"data.source.path={folder}")
    assert config_errors(composed) == []
    assert composed["data"]["split"]["kind"] == "official"
    source = dict(composed["data"]["source"])
    assert source.pop("_target_") == "etude.data.sources.gtzan.collection"
    assert len(collection(**source).table) == 929


def test_clips_outside_the_split_are_listed(folder: Path) -> None:
    reasons = [item.reason for item in collection(str(folder)).skipped_items]
    assert reasons.count("clip is not in the fault-filtered split") == 70
    assert reasons.count("file is broken in a widely used copy") == 1
    assert [item.item for item in collection(str(folder), filtered=False).skipped_items] == ["jazz.00054"]


def place_clips(folder: Path, numbers: Sequence[int], suffix: str = ".ogg", genres: Sequence[str] = GENRES) -> None:
    """Create empty files of clips."""
    for genre in genres:
        (folder / genre).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (folder / genre / f"{genre}.{number:05d}{suffix}").touch()


@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".flac", ".au", ".wav"])
def test_conversions_are_read(tmp_path: Path, suffix: str) -> None:
    place_clips(tmp_path, [0, 1], suffix)
    path = collection(str(tmp_path)).table.set_index("id")["path"]
    assert path["blues.00000"] == str(tmp_path / "blues" / f"blues.00000{suffix}")


@pytest.mark.parametrize("start", ["", "Data", "Data/genres_original"])
def test_layout_of_kaggle_is_read(tmp_path: Path, start: str) -> None:
    place_clips(tmp_path / "Data" / "genres_original", [0, 1], ".wav")
    (tmp_path / "Data" / "images_original" / "blues").mkdir(parents=True)
    (tmp_path / "Data" / "images_original" / "blues" / "blues00000.png").touch()
    (tmp_path / "Data" / "features_30_sec.csv").write_text("filename,label\nblues.00000.wav,blues\n")
    source = collection(str(tmp_path / start))
    assert source.table["path"][0] == str(tmp_path / "Data/genres_original/blues/blues.00000.wav")
    assert not [item.item for item in source.skipped_items if "image" in item.item or "csv" in item.item]


def test_subset_and_incomplete_copy_are_distinguished(tmp_path: Path) -> None:
    place_clips(tmp_path / "a", range(10))
    subset = "the folder has 100 of the 999 clips of GTZAN, a subset; add data.source.subset=true to use them"
    assert collection(str(tmp_path / "a")).missing_note == subset
    with pytest.raises(DataError) as caught:
        prepare_pack(collection(str(tmp_path / "a")), LogMelChroma(), PackOptions(tmp_path / "packs", workers=1))
    assert subset in str(caught.value)
    place_clips(tmp_path / "b", range(100), genres=GENRES[:2])
    assert "200 of the 999 clips of GTZAN, a subset;" in collection(str(tmp_path / "b")).missing_note
    place_clips(tmp_path / "b", range(30), genres=["country"])
    assert collection(str(tmp_path / "b")).missing_note == (
        "the folder has 230 of the 999 clips of GTZAN (30 of country, 0 of disco, 0 of hiphop, 0 of jazz, 0 of metal, "
        "0 of pop, 0 of reggae, 0 of rock), an incomplete copy; "
        "copy it again, or add data.source.subset=true to use them"
    )


def test_subset_has_only_existing_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place_clips(tmp_path, range(10), genres=GENRES[:3])
    source = collection(str(tmp_path), subset=True)
    splits = read_split()
    assert source.name == "gtzan_subset" and source.missing_note == ""
    assert source.table["id"].tolist() == [
        f"{genre}.{n:05d}" for genre in GENRES[:3] for n in range(10) if f"{genre}.{n:05d}" in splits
    ]
    assert source.targets["genre"]["classes"] == list(GENRES[:3])
    assert source.title == f"GTZAN, a subset: {len(source.table)} clips in 3 genres, fault-filtered"
    trained = {clip.split(".")[0] for clip in source.table["id"] if splits[clip] == "train"}
    untrained = ", ".join(genre for genre in GENRES[:3] if genre not in trained)
    assert untrained and f"the published split has no training clips of {untrained} here (" in caplog.text
    assert "data.source.filtered=false data.split.kind=stratified splits the clips at random" in caplog.text
    caplog.clear()
    everything = collection(str(tmp_path), filtered=False, subset=True)
    assert len(everything.table) == 30 and everything.name == "gtzan_all_subset"
    assert "no training clips" not in caplog.text
