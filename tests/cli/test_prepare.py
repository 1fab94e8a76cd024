"""Tests of the command prepare: packs of all sources, and errors without output files."""

from __future__ import annotations

import json
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
from tests.commands import prepare as main

from etude.audio.decode import decode
from etude.audio.log_mel import frames
from etude.config.overrides import quote_value
from etude.data import audio_files
from etude.data.datamodule import build_datamodule
from etude.data.pack import Pack

FOLDER = ("data=folder", "data.source.path=music")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """Return the working directory."""
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_clips(music: Path) -> Path:
    """Write two classes with two clips each, and return the folder."""
    for i, name in enumerate(("rock/a.wav", "rock/b b.wav", "jazz/a.wav", "jazz/(live).wav")):
        (music / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(music / name, 0.1 * np.random.default_rng(i).standard_normal(30000), 22050)
    return music


def packs(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "outputs" / "packs").glob("*") if not path.name.startswith("."))


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of an invalid command, which prints no traceback and writes no file."""
    before = list_files(Path.cwd())
    assert main(list(arguments)) == 2
    assert list_files(Path.cwd()) == before
    assert not Path("outputs").exists()
    out, error = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in error
    return error.strip()


@pytest.mark.parametrize(
    "name",
    ["music", "my music (live)", "it's here", "a,b", "x=y", "50% {off}", "[2001] Discovery", "2020", "ünï ♫", "a\\b",
     "a: b", "$HOME", "a#b"],
)  # fmt: skip
def test_folder_with_any_name_is_packed(name: str, folder: Path) -> None:
    write_clips(folder / name)
    assert main(["data=folder", f"data.source.path={quote_value(name, 'str')}", "--workers=1"]) == 0
    (path,) = packs(folder)
    pack = Pack(path)
    assert pack.index["id"].tolist() == ["jazz/(live)", "jazz/a", "rock/a", "rock/b b"]
    assert pack.index["genre"].tolist() == ["jazz", "jazz", "rock", "rock"]


def test_logged_training_command_opens_the_same_pack(
    folder: Path, config: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    write_clips(folder / "my music (live)")
    assert main(["data=folder", f"data.source.path='{folder}/my music (live)'", "feature=chroma", "--workers=1"]) == 0
    (path,) = packs(folder)
    pack = Pack(path)
    expected = frames(
        decode(folder / "my music (live)" / "rock" / "b b.wav", 22050),
        build_datamodule(config("feature=mel")).feature.front,
    )
    np.testing.assert_array_equal(pack.clip(3), expected.astype(np.float16))
    assert f"4 clips, {int(pack.lengths.sum()):,} frames in outputs/packs/{path.name}" in caplog.text
    command = next(message for message in caplog.messages if message.startswith("train with: python train.py "))
    overrides = shlex.split(command.removeprefix("train with: python train.py "))
    opened = build_datamodule(config(*overrides, f"data.packs={folder}/outputs/packs"))
    written_at = (path / "frames.f16").stat().st_mtime_ns
    assert opened.open_pack().folder == path
    assert (path / "frames.f16").stat().st_mtime_ns == written_at
    assert packs(folder) == [path]


def test_other_overrides_are_those_of_training(folder: Path) -> None:
    write_clips(folder / "music")
    arguments = [*FOLDER, "--workers=1", "data.packs=there", "feature.front.n_mels=20", "data.min_seconds=0.5"]
    assert main(arguments) == 0
    assert main([*arguments, "feature.sync=beat"]) == 0
    (hop, beat) = sorted((folder / "there").glob("music-*"), key=lambda path: -(path / "frames.f16").stat().st_size)
    assert Pack(hop).manifest["origin"]["front"]["n_mels"] == 20
    assert Pack(hop).manifest["origin"]["shortest"] == 0.5
    assert Pack(beat).manifest["origin"]["front"]["sync"] == "beat"
    assert not (folder / "outputs").exists()


def test_lists_and_mappings_have_the_grammar_of_hydra(folder: Path) -> None:
    write_clips(folder / "music")
    write_clips(folder / "more").joinpath("jazz").rename(folder / "music" / "punk")
    arguments = [*FOLDER, "data.source.classes={loud: [rock, punk], quiet: [jazz]}", "--workers=1"]
    assert main(arguments) == 0
    (path,) = packs(folder)
    assert Pack(path).index["genre"].value_counts().to_dict() == {"loud": 4, "quiet": 2}


def test_table_is_packed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_clips(folder / "my wavs")
    rows = {"path": ["rock/a.wav", "rock/b b.wav", "jazz/a.wav", "jazz/(live).wav"], "mood": [0.1, 0.9, 0.5, 0.3]}
    pd.DataFrame(rows).to_csv(folder / "my clips.csv", index=False)
    arguments = [
        "data.source.table='my clips.csv'",
        "data.source.audio='my wavs'",
        "data.source.targets={mood: [0, 1]}",
    ]
    assert main(["data=table", *arguments, "--workers=1"]) == 0
    (path,) = packs(folder)
    assert sorted(Pack(path).index["mood"]) == [0.1, 0.3, 0.5, 0.9]
    assert caplog.messages[-1].startswith("train with: ") and caplog.messages[-1].endswith(" task=auto")  # no genre


def test_repeated_command_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clips(folder / "music")
    assert main([*FOLDER, "--workers=1"]) == 0
    monkeypatch.setattr(audio_files, "decode", None)  # must not be called
    assert main([*FOLDER, "--workers=1"]) == 0


def test_interrupted_command_is_resumed_when_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_clips(folder / "music")
    names: list[str] = []

    def decode_two(path: Path, *rest: Any) -> np.ndarray:
        if len(names) == 2:
            raise KeyboardInterrupt
        names.append(path.name)
        return decode(path, *rest)

    monkeypatch.setattr(audio_files, "decode", decode_two)
    assert main([*FOLDER, "--workers=1"]) == 130
    assert "interrupted; repeat the command to resume" in caplog.text
    assert packs(folder) == []
    names.clear()
    assert main([*FOLDER, "--workers=1"]) == 0
    assert len(names) == 2
    assert len(Pack(packs(folder)[0]).index) == 4


def test_retry_decodes_skipped_clips_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from etude.audio.formats import DecodeError

    write_clips(folder / "music")
    arguments = [*FOLDER, "--workers=1", "data.max_skipped=0.5"]

    def fail_for_some(path: Path, *rest: Any) -> np.ndarray:
        if path.stem == "a":
            raise DecodeError(f"{path}: cannot be decoded (ffmpeg is not installed)")
        return decode(path, *rest)

    monkeypatch.setattr(audio_files, "decode", fail_for_some)
    assert main(arguments) == 0
    assert len(Pack(packs(folder)[0]).index) == 2
    monkeypatch.setattr(audio_files, "decode", decode)
    assert main(arguments) == 0
    assert len(Pack(packs(folder)[0]).index) == 2
    assert main([*arguments, "--retry"]) == 0
    assert len(Pack(packs(folder)[0]).index) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.source.pth=music"], "data.source.pth: no such config key; did you mean path?"),
        (["data.source.clases={a: [b]}"], "data.source.clases: no such config key; did you mean classes?"),
        (["data.source.zzz=1"], "data.source.zzz: no such config key; available: path, classes"),
        (["--workers=0"], "Invalid value for '--workers': Input should be greater than or equal to 1; "),
        (["--workers=many"], "Invalid value for '--workers': Input should be a valid integer"),
        (["--retry=maybe"], "Option '--retry' does not take a value; etude prepare --help lists the arguments"),
        (["--ray="], "--ray=: empty value; remove the option or give it a value"),
        (["music"], "music: is not of the form name=value"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_misspelled_option_is_refused_with_suggestion(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(folder / "music")
    assert error_of(capsys, *FOLDER, *arguments).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (
            ["source=folder", "path=music"],
            [
                "source=folder: was renamed; use data=folder",
                "path=music: is not an override for data or feature; an option of the source is data.source.path=music",
            ],
        ),
        (
            ["data=folder", "classes={a: [b]}"],
            [
                "classes={a: [b]}: is not an override for data or feature; an option of the source is "
                "data.source.classes={a: [b]}"
            ],
        ),
        ([*FOLDER, "workers=2"], ["workers=2: options of etude prepare have dashes; use --workers 2"]),
        ([*FOLDER, "retry=true"], ["retry=true: options of etude prepare have dashes; use --retry"]),
        ([*FOLDER, "verify=False"], ["verify=False: options of etude prepare have dashes; use no --verify"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_forms_of_version_0_1_are_refused_with_the_present_form(
    arguments: list[str], messages: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(folder / "music")
    assert error_of(capsys, *arguments).splitlines() == messages


@pytest.mark.parametrize("override", ["data.btch_size=3", "feature.front.hop=256", "data.split.knd=random"])
def test_misspelled_key_is_refused(override: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(folder / "music")
    assert override.partition("=")[0].rpartition(".")[2] in error_of(capsys, *FOLDER, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("feature.sync=bar", "feature.sync must be none or beat, got 'bar'"),
        ("feature.front.chroma=cens", "feature.front.chroma must be stft or cqt, got 'cens'"),
        ("feature.front.fmin=-1", "feature.front"),
        ("data.batch_size=0", "data.batch_size must be greater than 0, got 0"),
        ("data.batch_size=many", "data.batch_size: must be int, got 'many'"),
        ("data.split.kind=leaky", "data.split.kind must be one of"),
    ],
)
def test_invalid_value_is_refused(
    override: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(folder / "music")
    assert message in error_of(capsys, *FOLDER, override)


@pytest.mark.parametrize(
    ("source", "missing"),
    [("folder", ["path"]), ("table", ["table"]), ("pack", ["path"]), ("fma", ["metadata", "path"])],
)
def test_missing_options_are_named(source: str, missing: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    messages = error_of(capsys, f"data={source}").splitlines()
    assert messages == [f"data.source.{key}: needs a value; add data.source.{key}=..." for key in missing]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=folder", "data.source.path=none"], "none: there is no such folder"),
        (["data=folder", "data.source.path='~nobody_of_that_name/music'"], "~nobody_of_that_name/music: "),
        (["data=pack", "data.source.path=none"], "none: is not a complete pack"),
        (["data=union"], "data=union needs two collections or more"),
        (["data=nothing", "data.source.path=x"], "data=nothing: no such option; available: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_missing_source_has_an_error_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, *arguments)


def test_too_many_damaged_files_have_an_error_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in write_clips(folder / "music").rglob("*.wav"):
        path.write_text("no music")
    assert main([*FOLDER, "--workers=1"]) == 2
    error = capsys.readouterr().err
    assert "music: 1 of 4 clips were skipped, more than data.max_skipped=0.1 allows; for example" in error
    assert packs(folder) == []


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["data=folder", "--help"]], ids=str)
def test_help_lists_options_and_examples(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for option in ("--workers N", "--retry", "--ray local|ADDRESS", "--verify", "--json"):
        assert f"\n  {option} " in text
    assert "etude prepare data=folder data.source.path=music " in text
    assert "etude train data=<collection> --cfg job -p data.source " in text
    assert list(folder.iterdir()) == []


def test_overrides_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys) == "Missing argument 'OVERRIDE'; etude prepare --help lists the arguments"


def test_folder_of_outputs_contains_the_packs(folder: Path) -> None:
    write_clips(folder / "music")
    assert main([*FOLDER, "outputs=there", "--workers=1"]) == 0
    assert len(list((folder / "there" / "packs").glob("music-*"))) == 1
    assert packs(folder) == []


def test_json_describes_the_pack_and_skipped_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips(folder / "music").joinpath("rock", "a.wav").write_text("no music")
    assert main([*FOLDER, "data.max_skipped=0.5", "--workers=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (path,) = packs(folder)
    assert result["pack"] == f"outputs/packs/{path.name}"
    assert (result["status"], result["clips"], result["frames"]) == (0, 3, int(Pack(path).lengths.sum()))
    (skipped,) = result["skipped"]
    assert skipped["id"] == "rock/a" and skipped["reason"]


def test_verify_detects_a_changed_byte(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    write_clips(folder / "music")
    arguments = [*FOLDER, "--workers=1", "--verify"]
    assert main(arguments) == 0
    assert "all clips match their checksums" in caplog.text
    path = packs(folder)[0] / "frames.f16"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    written_at = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(written_at, written_at))  # like a damaged bit on disk
    assert main(arguments) == 2
    assert "was changed after it was written" in capsys.readouterr().err
