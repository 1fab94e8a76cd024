"""`etude prepare` makes the pack that a run will open, or says in a sentence what is missing and writes nothing."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from etude.audio.decode import decode
from etude.audio.log_mel import frames
from etude.cli.prepare import main
from etude.config.compose import conf_dir
from etude.data import readers
from etude.data.datamodule import build_datamodule
from etude.data.pack import Pack

SOURCES = sorted(path.stem for path in (conf_dir() / "data").glob("*.yaml"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A folder to work in."""
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lay(home: Path) -> Path:
    """Two classes of two clips each."""
    for i, name in enumerate(("rock/a.wav", "rock/b b.wav", "jazz/a.wav", "jazz/(live).wav")):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(home / name, 0.1 * np.random.default_rng(i).standard_normal(30000), 22050)
    return home


def packs(here: Path) -> list[Path]:
    return sorted(path for path in (here / "outputs" / "packs").glob("*") if not path.name.startswith("."))


def written(here: Path) -> list[str]:
    return sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a line that is wrong is answered with; there is no traceback and no file."""
    before = written(Path.cwd())
    assert main(list(words)) == 2
    assert written(Path.cwd()) == before
    assert not Path("outputs").exists()
    out, said = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in said
    return said.strip()


@pytest.mark.parametrize(
    "name",
    ["music", "my music (live)", "it's here", "a,b", "x=y", "50% {off}", "[2001] Discovery", "2020", "ünï ♫", "a\\b",
     "a: b", "$HOME", "a#b"],
)  # fmt: skip
def test_any_folder_is_packed_by_its_name(name: str, here: Path) -> None:
    lay(here / name)
    assert main(["source=folder", f"path={name}", "workers=1"]) == 0
    (folder,) = packs(here)
    pack = Pack(folder)
    assert pack.index["id"].tolist() == ["jazz/(live)", "jazz/a", "rock/a", "rock/b b"]
    assert pack.index["genre"].tolist() == ["jazz", "jazz", "rock", "rock"]


def test_the_pack_is_the_one_that_the_line_at_the_end_trains_on(
    here: Path, config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    lay(here / "my music (live)")
    assert main(["source=folder", f"path={here}/my music (live)", "feature=chroma", "workers=1"]) == 0
    (folder,) = packs(here)
    pack = Pack(folder)
    made = frames(
        decode(here / "my music (live)" / "rock" / "b b.wav", 22050),
        build_datamodule(config("feature=mel")).feature.front,
    )
    np.testing.assert_array_equal(pack.clip(3), made.astype(np.float16))
    assert f"4 clips, {int(pack.lengths.sum()):,} frames in outputs/packs/{folder.name}" in caplog.text
    line = next(message for message in caplog.messages if message.startswith("train with: python train.py "))
    overrides = shlex.split(line.removeprefix("train with: python train.py "))
    opened = build_datamodule(config(*overrides, f"data.packs={here}/outputs/packs"))
    stamp = (folder / "frames.f16").stat().st_mtime_ns
    assert opened.open_pack().folder == folder
    assert (folder / "frames.f16").stat().st_mtime_ns == stamp
    assert packs(here) == [folder]


def test_other_words_are_those_of_training(here: Path) -> None:
    lay(here / "music")
    line = [
        "source=folder",
        "path=music",
        "workers=1",
        "data.packs=there",
        "feature.front.n_mels=20",
        "data.min_seconds=0.5",
    ]
    assert main(line) == 0
    assert main([*line, "feature.sync=beat"]) == 0
    (hop, beat) = sorted((here / "there").glob("music-*"), key=lambda path: -(path / "frames.f16").stat().st_size)
    assert Pack(hop).manifest["origin"]["front"]["n_mels"] == 20
    assert Pack(hop).manifest["origin"]["shortest"] == 0.5
    assert Pack(beat).manifest["origin"]["front"]["sync"] == "beat"
    assert not (here / "outputs").exists()


def test_lists_and_mappings_are_given_as_hydra_has_them(here: Path) -> None:
    lay(here / "music")
    lay(here / "more").joinpath("jazz").rename(here / "music" / "punk")
    words = ["source=folder", "path=music", "classes={loud: [rock, punk], quiet: [jazz]}", "workers=1"]
    assert main(words) == 0
    (folder,) = packs(here)
    assert Pack(folder).index["genre"].value_counts().to_dict() == {"loud": 4, "quiet": 2}


def test_a_table_is_packed(here: Path) -> None:
    lay(here / "my wavs")
    rows = {"path": ["rock/a.wav", "rock/b b.wav", "jazz/a.wav", "jazz/(live).wav"], "mood": [0.1, 0.9, 0.5, 0.3]}
    pd.DataFrame(rows).to_csv(here / "my clips.csv", index=False)
    assert main(["source=table", "table=my clips.csv", "audio=my wavs", "targets={mood: [0, 1]}", "workers=1"]) == 0
    (folder,) = packs(here)
    assert sorted(Pack(folder).index["mood"]) == [0.1, 0.3, 0.5, 0.9]


def test_the_same_line_again_does_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(here / "music")
    assert main(["source=folder", "path=music", "workers=1"]) == 0
    monkeypatch.setattr(readers, "decode", None)  # nobody may call it
    assert main(["source=folder", "path=music", "workers=1"]) == 0


def test_ctrl_c_is_answered_and_the_same_line_goes_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lay(here / "music")
    names: list[str] = []

    def decode_two(path: Path, *rest: Any) -> np.ndarray:
        if len(names) == 2:
            raise KeyboardInterrupt
        names.append(path.name)
        return decode(path, *rest)

    monkeypatch.setattr(readers, "decode", decode_two)
    assert main(["source=folder", "path=music", "workers=1"]) == 130
    assert "interrupted; the same command goes on from here" in caplog.text
    assert packs(here) == []
    names.clear()
    assert main(["source=folder", "path=music", "workers=1"]) == 0
    assert len(names) == 2
    assert len(Pack(packs(here)[0]).index) == 4


def test_retry_tries_what_was_skipped(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from etude.audio.formats import DecodeError

    lay(here / "music")
    line = ["source=folder", "path=music", "workers=1", "data.max_skipped=0.5"]

    def deaf(path: Path, *rest: Any) -> np.ndarray:
        if path.stem == "a":
            raise DecodeError(f"{path}: cannot be decoded (ffmpeg is not installed)")
        return decode(path, *rest)

    monkeypatch.setattr(readers, "decode", deaf)
    assert main(line) == 0
    assert len(Pack(packs(here)[0]).index) == 2
    monkeypatch.setattr(readers, "decode", decode)
    assert main(line) == 0
    assert len(Pack(packs(here)[0]).index) == 2
    assert main([*line, "retry=true"]) == 0
    assert len(Pack(packs(here)[0]).index) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pth=music"], "pth: this source has no such option; available: path"),
        (["clases={a: [b]}"], "clases: this source has no such option; available: classes"),
        (["zzz=1"], "zzz: this source has no such option; available: path, classes"),
        (["workers=0"], "workers=0: must be a whole number of at least 1"),
        (["workers=many"], "workers=many: must be a whole number of at least 1"),
        (["retry=maybe"], "retry=maybe: must be true or false"),
        (["music"], "music: is not of the form name=value; --help shows examples"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_typing_error_is_refused_with_what_was_meant(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(here / "music")
    assert refused(capsys, "source=folder", "path=music", *words).startswith(said)


@pytest.mark.parametrize("word", ["data.btch_size=3", "feature.front.hop=256", "data.split.knd=random"])
def test_a_typing_error_in_a_dotted_word_is_refused(word: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(here / "music")
    assert word.partition("=")[0].rpartition(".")[2] in refused(capsys, "source=folder", "path=music", word)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("feature.sync=bar", "feature.sync must be none or beat, got 'bar'"),
        ("feature.front.chroma=cens", "feature.front.chroma must be stft or cqt, got 'cens'"),
        ("feature.front.fmin=-1", "feature.front"),
        ("data.batch_size=0", "data.batch_size must be greater than 0, got 0"),
        ("data.batch_size=many", "data.batch_size: must be int, got 'many'"),
        ("data.split.kind=leaky", "data.split.kind must be one of"),
    ],
)
def test_a_wrong_value_is_refused(word: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay(here / "music")
    assert said in refused(capsys, "source=folder", "path=music", word)


@pytest.mark.parametrize(
    ("source", "missing"),
    [("folder", ["path"]), ("table", ["table"]), ("pack", ["path"]), ("fma", ["metadata", "path"])],
)
def test_what_is_missing_is_asked_for_in_the_words_to_add(
    source: str, missing: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, f"source={source}").splitlines()
    assert said == [f"data.source.{key}: needs a value; add {key}=..." for key in missing]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["source=folder", "path=none"], "none: there is no such folder"),
        (["source=folder", "path=~nobody_of_that_name/music"], "~nobody_of_that_name/music: "),
        (["source=pack", "path=none"], "none: is not a complete pack"),
        (["source=union"], "data=union needs two collections or more"),
        (["source=nothing", "path=x"], "nothing"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_source_that_is_not_there_is_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *words)


def test_too_many_broken_files_end_with_a_sentence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in lay(here / "music").rglob("*.wav"):
        path.write_text("no music")
    assert main(["source=folder", "path=music", "workers=1"]) == 2
    said = capsys.readouterr().err
    assert "music: 1 of 4 clips were skipped, more than data.max_skipped=0.1 allows; for example" in said
    assert packs(here) == []


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["source=folder", "--help"]], ids=str)
def test_help_names_every_source_and_what_it_takes(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"source=<{', '.join(SOURCES)}>" in said
    for source, settings in {
        "folder": ["path", "classes"],
        "table": ["table", "audio", "targets"],
        "pack": ["path"],
        "union": ["sources", "packs", "shared_ids"],
        "fma": ["path", "metadata"],
    }.items():
        (line,) = [line for line in said.splitlines() if f"source={source} " in line and "=..." in line]
        assert all(f"{key}=..." in line for key in settings)
    assert list(here.iterdir()) == []


def test_verify_tells_a_changed_byte(
    here: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    lay(here / "music")
    line = ["source=folder", "path=music", "workers=1", "verify=true"]
    assert main(line) == 0
    assert "all clips match their checksums" in caplog.text
    frames = packs(here)[0] / "frames.f16"
    content = bytearray(frames.read_bytes())
    content[1000] ^= 1
    written = frames.stat().st_mtime_ns
    frames.write_bytes(content)
    os.utime(frames, ns=(written, written))  # as a disk that loses a bit
    assert main(line) == 2
    assert "was changed after it was written" in capsys.readouterr().err
