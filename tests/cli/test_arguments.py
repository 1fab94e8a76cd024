"""Tests of paths, lists and options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from tests import commands

from etude.cli.app import app, run_command
from etude.cli.arguments import completer, exists, expand_path, greater_than_zero, one_of_each, split_list

NAMES = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> str:
    """Return the one line that a command with invalid arguments prints, which writes no file."""
    before = sorted(Path.cwd().rglob("*"))
    assert run_command(command, arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert sorted(Path.cwd().rglob("*")) == before
    return error.strip()


def test_home_folder_is_expanded_if_the_user_exists() -> None:
    assert expand_path("~/y") == Path.home() / "y"
    assert expand_path("~nosuchuser/run") == Path("~nosuchuser/run")


def test_argument_that_cannot_be_a_path_does_not_exist(folder: Path) -> None:
    (folder / "a").touch()
    assert exists("a")
    assert not any(map(exists, ("b", "a\0b", "9" * 300, "~nosuchuser/a")))


def test_lists_are_separated_by_commas_or_repeated() -> None:
    assert split_list(["json, csv", "json", "parquet"]) == ["json", "csv", "parquet"]
    assert split_list(None) == split_list([]) == []


def test_existing_file_with_comma_is_one_item(folder: Path) -> None:
    (folder / "a,b.wav").touch()
    assert split_list(["a,b.wav", "c,d"]) == ["a,b.wav", "c", "d"]


@pytest.mark.parametrize("value", ["", "a,", ",a", "a,,b", "a, ,b"])
def test_empty_item_is_refused(value: str) -> None:
    with pytest.raises(typer.BadParameter, match="an item of the list is empty; remove the comma or give a value"):
        split_list([value])


def test_unknown_choice_is_refused() -> None:
    callback = one_of_each("csv", "json")
    assert callback(["json,csv", "json"]) == ["json", "csv"]
    with pytest.raises(typer.BadParameter, match=r"^'xml' is not one of csv, json$"):
        callback(["csv,xml"])


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_limit_must_be_positive_and_finite(value: float) -> None:
    assert greater_than_zero(2.5) == 2.5
    with pytest.raises(typer.BadParameter, match=f"^{value:g} is not a number greater than 0$"):
        greater_than_zero(value)


def test_last_item_of_a_list_is_completed() -> None:
    complete = completer("csv", "json", "parquet")
    assert complete("") == ["csv", "json", "parquet"]
    assert complete("csv,j") == ["csv,json"]
    assert complete("x") == []


def test_existing_file_with_equals_sign_is_no_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = "out=song.mp3: options of etude predict have dashes; use --out song.mp3"
    assert error_of(capsys, "predict", "run", "out=song.mp3") == message
    (folder / "out=song.mp3").touch()
    assert error_of(capsys, "predict", "run", "out=song.mp3") == "run: there is no such run folder or checkpoint"


@pytest.mark.parametrize(
    ("command", "argument", "option"),
    [
        ("predict", "to=x", "--out x"),
        ("predict", "+to=x", "--out x"),
        ("predict", "batch=8", "--batch-size 8"),
        ("predict", "page=False", "--no-page"),
        ("predict", "page=true", "--page"),
        ("predict", "page=yes", "--page or --no-page"),
        ("export", "private=true", "--private"),
        ("export", "private=false", "no --private"),
        ("compare", "part=val", "--split val"),
        ("compare", "table=runs", "--layout runs"),
        ("compare", "backbone=lstm", "--where backbone=lstm"),
        ("maps", "out=a=b", "--out a=b"),
    ],
)
def test_options_of_version_0_1_are_refused_with_the_present_form(
    command: str, argument: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"{argument}: options of etude {command} have dashes; use {option}"
    assert error_of(capsys, command, "run", argument) == message


@pytest.mark.parametrize(
    ("arguments", "option"), [(["--out="], "--out="), (["--out", ""], "--out ''"), (["--format="], "--format=")]
)
def test_empty_value_is_refused(arguments: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"{option}: empty value; remove the option or give it a value"
    assert error_of(capsys, "predict", "run", "song.mp3", *arguments) == message


def test_argument_after_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "predict", "run", "--", "--out=") == "run: there is no such run folder or checkpoint"


def test_unknown_option_is_refused_with_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "predict", "run", "song.mp3", "--windw=3")
    assert error.startswith("No such option: --windw") and "--window" in error
    assert error.endswith("; etude predict --help lists the arguments")


def test_every_command_except_train_is_a_function_of_the_tests() -> None:
    assert {name for name in NAMES if hasattr(commands, name)} == set(NAMES) - {"train"}


def test_null_character_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    message = "'a\\x00b': contains a null character, which no path can; give a path"
    assert error_of(capsys, "predict", "a\0b", "song.mp3") == message
    assert error_of(capsys, "embed", "run", "a\0b", "--out", "x.npz") == message


@pytest.mark.parametrize("command", ["predict", "embed"])
def test_runs_and_sweeps_are_no_folders_of_audio_files(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clips of worst errors in the folders of runs and sweeps are not read as inputs."""
    for name, file in (
        ("run", "config.yaml"), ("damaged", "checkpoints/last.ckpt"), ("sweep", "multirun.yaml"), ("music", "a.wav")
    ):  # fmt: skip
        (folder / name / file).parent.mkdir(parents=True)
        (folder / name / file).touch()
    message = "sweep: is the folder of a sweep; name single runs before the audio files, or its ensemble"
    assert error_of(capsys, command, "run", "sweep", "music", "--out=x.npz") == message
    assert error_of(capsys, command, "run", "music", "sweep", "--out=x.npz") == message
    message = "damaged: is a run; give all runs before the audio files"
    assert error_of(capsys, command, "run", "music", "damaged", "--out=x.npz") == message
