"""The command: its words, its tables, and that it goes on where it was interrupted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from etude.cli.predict import HELP, OPTIONS, main, parse_predict_options
from etude.errors import UserError
from etude.files.ownership import LIST_NAME
from etude.inference import engine, tables
from etude.inference.predict import JOURNAL, PAGES


def call(checkpoint: Path, sounds: Path, to: Path, *words: str) -> int:
    return main([str(checkpoint), str(sounds), f"to={to}", "page=false", *words])


@pytest.fixture(scope="module")
def few(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short files alone."""
    home = tmp_path_factory.mktemp("few")
    for number in range(4):
        shutil.copy(sounds / "a.ogg", home / f"{number}.ogg")
    shutil.copy(sounds / "broken.mp3", home / "2.mp3")
    return home


@pytest.fixture(scope="module")
def whole(checkpoint: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted command writes, in all formats."""
    to = tmp_path_factory.mktemp("whole")
    assert call(checkpoint, few, to, "format=csv,json,parquet") == 1
    return to


def test_all_formats_say_the_same(whole: Path) -> None:
    for table in ("files", "windows"):
        text = pd.read_csv(whole / f"{table}.csv")
        parquet = pd.read_parquet(whole / f"{table}.parquet")
        said = pd.DataFrame(json.loads((whole / f"{table}.json").read_text()))
        shared = [name for name in parquet if name != "embedding"]
        assert list(text) == list(said) == shared
        pd.testing.assert_frame_equal(text, parquet[shared], check_dtype=False)
        pd.testing.assert_frame_equal(said.astype(object).where(said.notna(), None),
                                      parquet[shared].astype(object).where(parquet[shared].notna(), None))  # fmt: skip
    files = pd.read_parquet(whole / "files.parquet")
    assert len(files) == 5 and len(files["embedding"][0]) == 16 and files["error"].notna().sum() == 1
    assert list(files) == [
        "path", "seconds", "windows", "genre.pred", "genre.score.<b>loud", "genre.score.quiet", "genre.score.soft",
        "valence.pred", "energy.pred", "error", "embedding",
    ]  # fmt: skip


def test_interrupted_and_started_again_it_ends_with_the_same_tables(
    checkpoint: Path, few: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    heard: list[str] = []
    real = engine.load_windows

    def noted(job: Any) -> Any:
        heard.append(job[0].name)
        if len(heard) == 3:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(engine, "load_windows", noted)
    to = tmp_path / "to"
    assert call(checkpoint, few, to, "batch=1") == 130
    assert "2 of 5 files are done; the same command goes on from here" in caplog.text
    assert not list(to.glob("*.csv"))
    with (to / JOURNAL).open("ab") as file:  # killed in the midst of a line
        file.write(b'{"path":"half')
    assert call(checkpoint, few, to, "batch=1") == 1
    assert heard[3:] == ["2.mp3", "2.ogg", "3.ogg"]
    for name in ("files.csv", "windows.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(to / name), pd.read_csv(whole / name), atol=1e-6)
    assert {path.name for path in to.iterdir()} == {JOURNAL, "files.csv", "windows.csv", ".lock", LIST_NAME}

    assert call(checkpoint, few, to, "format=json") == 1
    assert heard[6:] == ["2.mp3"]  # what could not be heard is tried again
    assert not (to / "files.csv").exists() and len(json.loads((to / "files.json").read_text())) == 5
    (few / "3.ogg").touch()
    assert call(checkpoint, few, to) == 1
    assert heard[7:] == ["2.mp3", "3.ogg"]  # and what has changed
    assert call(checkpoint, few, to, "window=4") == 1
    assert len(heard) == 14 and len(pd.read_csv(to / "windows.csv")) == 16  # other windows: begun anew


def test_processes_and_this_one_say_the_same(checkpoint: Path, few: Path, whole: Path, tmp_path: Path) -> None:
    names = "\n".join(str(few / f"{number}.ogg") for number in range(4)) + "\n"
    for number in range(5):  # more than a shard, so that there are two processes
        shutil.copy(few / "0.ogg", tmp_path / f"{number}.ogg")
    (tmp_path / "list.txt").write_text(names + "\n".join(f"{number}.ogg" for number in range(5)))
    assert main([str(checkpoint), str(tmp_path / "list.txt"), f"to={tmp_path / 'to'}", "page=false", "workers=2"]) == 0
    want = pd.read_csv(whole / "files.csv").dropna(subset="genre.pred").iloc[0, 1:-1]
    for row in range(9):
        pd.testing.assert_series_equal(
            pd.read_csv(tmp_path / "to" / "files.csv").iloc[row, 1:-1], want, check_names=False, atol=1e-6
        )


def test_that_results_of_other_windows_are_replaced_is_said(
    checkpoint: Path, sounds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = f"to={tmp_path}: its results were of another network or other windows, and are replaced"
    for words, replaced in (([], False), ([], False), (["window=5"], True)):
        caplog.clear()
        assert call(checkpoint, sounds / "a.ogg", tmp_path, *words) == 0
        assert (said in caplog.messages) == replaced
    assert len(pd.read_csv(tmp_path / "windows.csv")) == 3


def test_who_reads_the_first_lines_alone_gets_no_traceback(checkpoint: Path, sounds: Path, tmp_path: Path) -> None:
    words = [str(checkpoint), str(sounds / "a.ogg"), f"to={tmp_path}", "page=false"]
    command = [sys.executable, "-m", "etude", "predict", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as head does
        said = process.stderr.read()
    assert "Traceback" not in said and "BrokenPipe" not in said
    assert (tmp_path / "files.csv").is_file()


def test_a_folder_that_cannot_be_written_is_a_sentence(
    checkpoint: Path, few: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from filelock import FileLock

    (tmp_path / "file").touch()
    assert call(checkpoint, few, tmp_path / "file") == 2
    assert "is not a folder" in capsys.readouterr().err
    with FileLock(whole / ".lock"):
        assert call(checkpoint, few, whole) == 2
    assert "another process is writing to it" in capsys.readouterr().err
    assert main([str(few), str(few)]) == 2
    assert "is neither a run folder" in capsys.readouterr().err
    assert main([str(tmp_path / "gone"), str(few)]) == 2
    assert "there is no such run folder or checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("format=xml", "format=xml: there is no format 'xml'; available: csv, json, parquet"),
        ("window=long", "window=long: must be a number"),
        ("workers=0", "workers=0: must be a whole number of at least 1"),
        ("batch=many", "batch=many: must be a whole number of at least 1"),
        ("page=perhaps", "page=perhaps: must be true or false"),
        ("colour=red", "colour=red: is no file, and none of to="),
    ],
)
def test_a_wrong_word_is_a_sentence(word: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        parse_predict_options(["run", "song.mp3", word])


def test_the_command_offers_what_there_is() -> None:
    assert OPTIONS["format"][1](",".join(tables.FORMATS)) == list(tables.FORMATS)
    assert f"first {PAGES} files" in HELP


def test_a_run_alone_is_not_enough() -> None:
    with pytest.raises(UserError, match="takes a run folder or a checkpoint, then audio files"):
        parse_predict_options(["run", "window=3"])


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from etude.cli.predict import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "predict.py outputs/<run>" in out and "first 20 files" in out
    assert not {"torch", "numpy", "pandas", "hydra", "soundfile"} & set(out.split())


def test_tables_hold_a_file_at_a_time(whole: Path, tmp_path: Path) -> None:
    from etude.inference.model import PredictionColumns
    from etude.inference.tables import write_tables

    columns = PredictionColumns({"energy": {"kind": "scalar", "low": 0, "high": 1}})
    alive = 0

    class Counted(engine.FilePrediction):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def results() -> Iterator[engine.FilePrediction]:
        nonlocal alive
        for number in range(2500):
            alive += 1
            assert alive <= 3
            yield Counted(Path(f"{number}.mp3"), 1, 1, 10.0, [0.5], [(0.0, 10.0, [0.5])])

    write_tables(tmp_path, results(), columns, ["csv", "parquet"])
    assert len(pd.read_parquet(tmp_path / "files.parquet")) == len(pd.read_csv(tmp_path / "windows.csv")) == 2500
