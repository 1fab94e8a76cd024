"""Tests of predictions for arrays of ready frames, and of the table with an id and a column per target."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from tests.commands import predict as main
from tests.data.sources.patreco_arrays import random_array, save_array

import etude
from etude.audio.formats import DecodeError
from etude.data import audio_files
from etude.data.audio_files import ARRAY_FRONT_END, read_precomputed
from etude.data.datamodule import build_datamodule
from etude.data.sources.patreco import AXES
from etude.errors import UserError
from etude.files.ownership import LIST_NAME
from etude.inference.inputs import array_id_format, sort_by_id
from etude.training.build import build_learner

HEADER = "Id,valence,energy,danceability"
FRAMES, BEATS = (40, 60), (4, 9)  # ranges of the numbers of frames
SMALL = ("backbone=lstm", "backbone.hidden=8", "backbone.depth=1", "data.min_seconds=0", "data.crop=0.5")


def compress(path: Path) -> Path:
    """Replace an array with its compressed copy and return the path of the copy."""
    zipped = path.with_name(path.name + ".gz")
    zipped.write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()
    return zipped


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of arrays with ratings, full and beat-synchronous; every second unlabelled array is compressed."""
    home = tmp_path_factory.mktemp("arrays") / "multitask_dataset"
    rng = np.random.default_rng(0)
    lines = [HEADER]
    for clip in range(2, 26):
        lines.append(",".join([str(clip), *(f"{value:.3f}" for value in rng.random(3))]))
    for folder, lengths in ((home, FRAMES), (home.with_name(f"{home.name}_beat"), BEATS)):
        for clip in [*range(2, 26), *range(98, 104)]:
            values = random_array(rng, int(rng.integers(*lengths)))
            values[:128] = values[:128] / 2 - rng.uniform(0, 40)  # clips of different levels
            path = save_array(folder, "train" if clip < 98 else "test", str(clip), values)
            if clip > 98 and clip % 2:
                compress(path)
        (folder / "train_labels.txt").write_text("\n".join(lines) + "\n")
    return home


def write_run(composed: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write a run folder with the config and an untrained network, and return the outputs for its test split."""
    data = build_datamodule(composed)
    data.setup()
    torch.manual_seed(1)
    learner = build_learner(composed, data)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    trainer.test(learner, data.loader("test"), verbose=False)
    table = learner.tables[0]
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": learner.state_dict(), "etude": learner.recipe}, folder / "checkpoints" / "best.ckpt")
    plain = {key: composed[key] for key in ("data", "task", "feature")}
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))
    ids = data.pack.index["id"].iloc[table["row"].numpy()]
    values = {
        name: target.predict(table[f"out.{name}"]).numpy().reshape(len(ids), -1)
        for name, target in learner.task.targets.items()
    }
    return {"ids": list(ids), "values": values, "targets": learner.task.targets}


@pytest.fixture(scope="module")
def evaluated(
    home: Path, config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Run folder of an untrained network for the three ratings, and its outputs for the test split."""
    folder = tmp_path_factory.mktemp("runs") / "mel"
    composed = config("data=patreco_affect", f"data.source.path={home}", "task=multitask", *SMALL)
    return folder, write_run(composed, folder)


@pytest.fixture(scope="module")
def run(evaluated: tuple[Path, dict[str, Any]]) -> Path:
    """Run folder of an untrained network for the three ratings."""
    return evaluated[0]


@pytest.fixture
def arrays(home: Path, tmp_path: Path) -> Path:
    """Copy of the folder of unlabelled arrays."""
    return Path(shutil.copytree(home / "test", tmp_path / "test"))


def call(run: Path, inputs: Path, out: Path, *options: str) -> int:
    """Run the command in this process and return its exit status."""
    return main([str(run), str(inputs), f"--out={out}", "--workers=1", *options])


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line on standard error."""
    return capsys.readouterr().err.strip().rpartition("\n")[2]


def check_table(run: Path, folder: Path, expected: dict[str, Any], suffix: str, out: Path) -> None:
    """Predict test clips from the arrays of a folder, and compare the table with the outputs of `write_run`."""
    paths = out.with_suffix(".txt")
    paths.write_text("\n".join(str(folder / f"{clip}.fused.full.npy") for clip in expected["ids"]))
    assert call(run, paths, out, "--batch-size=3") == 0
    table = pd.read_csv(out)
    order = sorted(range(len(expected["ids"])), key=lambda row: int(expected["ids"][row]))
    assert list(table["Id"]) == [expected["ids"][row] + suffix for row in order]
    assert list(table)[1:] == list(expected["values"])
    for name, values in expected["values"].items():
        np.testing.assert_allclose(table[name], values[order, 0], rtol=0, atol=1e-5)
        assert np.ptp(values) > 1e-4  # the clips differ


def test_table_equals_evaluation(evaluated: tuple[Path, dict[str, Any]], home: Path, tmp_path: Path) -> None:
    check_table(evaluated[0], home / "train", evaluated[1], ".fused.full.npy.gz", tmp_path / "out.csv")


def test_table_of_run_on_pack_of_beats_equals_evaluation(
    home: Path, config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    overrides = ("task=multitask", "feature=fused", "feature.sync=beat", *SMALL)
    source = config("data=patreco_affect", f"data.source.path={home}", *overrides)
    pack = build_datamodule(source).open_pack().folder
    split = ("data.split.kind=grouped", "data.split.stratify=valence")
    composed = config("data=pack", f"data.source.path={pack}", *split, "feature/front=patreco", *overrides)
    expected = write_run(composed, tmp_path / "run")
    beats = home.with_name(f"{home.name}_beat") / "train"
    check_table(tmp_path / "run", beats, expected, ".fused.full.npy", tmp_path / "out.csv")


@pytest.mark.full
def test_table_of_chroma_crops_equals_evaluation(
    home: Path, config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    overrides = ("task=valence", "feature=chroma", "data.eval_crops=3", *SMALL)
    expected = write_run(config("data=patreco_affect", f"data.source.path={home}", *overrides), tmp_path / "run")
    check_table(tmp_path / "run", home / "train", expected, ".fused.full.npy.gz", tmp_path / "out.csv")


@pytest.mark.full
def test_table_equals_predictions_of_trained_run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = (f"data.source.path={home}", "data.packs=packs")
    trained = etude.run(
        ["data=patreco_affect", *source, "task=multitask", "trainer=cpu", "trainer.max_epochs=2", *SMALL]
    )
    assert call(trained.folder, home / "train", tmp_path / "out.csv") == 0
    table = pd.read_csv("out.csv").assign(id=lambda table: table["Id"].str.split(".").str[0]).set_index("id")
    assert len(table) == 24
    expected = trained.predictions.set_index("id")
    for name in AXES:
        np.testing.assert_allclose(table[name].loc[expected.index], expected[f"{name}.pred"], rtol=0, atol=1e-5)
    files = trained.predict(home / "train").files
    np.testing.assert_allclose(files.set_index("path")["energy.pred"].sort_values(), table["energy"].sort_values(),
                               rtol=0, atol=1e-5)  # fmt: skip


def test_table_has_a_row_for_every_array(
    run: Path, arrays: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (arrays / "notes.txt").touch()
    (arrays / "98.mp3").touch()
    out = tmp_path / "new" / "submission.csv"
    assert call(run, arrays, out, "--json") == 0
    lines = out.read_text().splitlines()
    assert lines[0] == HEADER
    assert [line.split(",")[0] for line in lines[1:]] == [f"{clip}.fused.full.npy.gz" for clip in range(98, 104)]
    assert "1 item skipped (suffix .txt is not an audio format: 1, such as notes.txt)" in caplog.text
    assert "1 item skipped (audio file in a folder of arrays: 1, such as 98.mp3)" in caplog.text
    printed = json.loads(capsys.readouterr().out)
    assert (printed["status"], printed["files"]) == (0, [str(out)])
    for line, row in zip(lines[1:], printed["predictions"], strict=True):
        assert line == ",".join([row["Id"], *(f"{row[f'{name}.pred']:.6g}" for name in AXES)])
    # the table is replaced, because Étude wrote it
    assert call(run, arrays, out, "--id-format={id}") == 0
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["Id", *map(str, range(98, 104))]
    assert {path.name for path in out.parent.iterdir()} == {out.name, LIST_NAME}


def test_existing_file_is_kept(run: Path, arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "submission.csv"
    out.write_text("mine")
    assert call(run, arrays, out) == 2
    assert f"{out}: exists and is not in {LIST_NAME}" in read_error(capsys)
    assert out.read_text() == "mine"


def damage_stream(path: Path) -> None:
    """Compress a file and change a byte of the checksum."""
    data = bytearray(gzip.compress(path.read_bytes()))
    data[-6] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("100.fused.full.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "cannot be read as an array"),
        ("100.fused.full.npy", lambda path: np.save(path, np.zeros((128, 9))), "has shape (128, 9), expected (140"),
        ("100.fused.full.npy", lambda path: np.save(path, np.full((140, 9), np.nan)), "contains NaN or infinite"),
        ("100.fused.full.npy", lambda path: np.save(path, np.full((140, 9), 1e6)), "gives frames that are not finite"),
        ("100.fused.full.npy", lambda path: np.save(path, np.full((140, 9), None), allow_pickle=True), "cannot be rea"),
        ("101.fused.full.npy.gz", lambda path: path.write_bytes(path.read_bytes()[:-9]), "cannot be read as an array"),
        ("101.fused.full.npy.gz", lambda path: np.save(path.open("wb"), np.zeros((140, 9))), "cannot be read as an ar"),
        ("101.fused.full.npy.gz", damage_stream, "cannot be read as an array"),
    ],
)  # fmt: skip
def test_invalid_array_writes_nothing(
    name: str, write: Callable[[Path], Any], message: str, run: Path, arrays: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write(arrays / name)
    assert call(run, arrays, tmp_path / "new" / "submission.csv") == 2
    error = read_error(capsys)
    assert error.startswith(f"{arrays / name}: {message}") and error.endswith("submission.csv is not written")
    assert not (tmp_path / "new").exists()


def test_result_of_a_run_and_other_tables_are_not_replaced(
    run: Path, arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list of written files contains results of other commands, which are no tables of ids."""
    (tmp_path / "results").mkdir()
    table = tmp_path / "results" / "curves.csv"
    table.write_text("epoch,val/loss\n1,0.5\n")
    (tmp_path / "results" / LIST_NAME).write_text('"curves.csv"\n')
    assert main([str(run), str(arrays), "--out", str(table)]) == 2
    assert "curves.csv: exists and is not a table of ids; choose another name" in capsys.readouterr().err
    assert table.read_text().startswith("epoch")
    assert main([str(run), str(arrays), "--out", str(table / "x.csv")]) == 2
    assert f"{table} is not a folder; choose another path" in capsys.readouterr().err


def test_compressed_arrays_are_limited_in_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((140, 100)))
    path = tmp_path / "1.npy.gz"
    path.write_bytes(gzip.compress(buffer.getvalue()))
    monkeypatch.setattr(audio_files, "MAX_UNPACKED", len(buffer.getvalue()))
    assert read_precomputed(path, ARRAY_FRONT_END).shape == (100, 140)
    monkeypatch.setattr(audio_files, "MAX_UNPACKED", len(buffer.getvalue()) - 1)
    with pytest.raises(DecodeError, match="of compressed data; decompress it with gunzip"):
        read_precomputed(path, ARRAY_FRONT_END)


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("a.csv", ["--window=3"], "--window 3: is for audio files only, and "),
        ("to", ["--overlap=0"], "--overlap 0: is for audio files only, and "),
        ("to", ["--page"], "--page: is for audio files only, and "),
        ("a.csv", ["--page"], "--page: --out "),
        ("a.csv", ["--format=json"], "--format json: --out "),
        ("to", ["--id-format={id}"], "--id-format: needs --out FILE.csv"),
        ("a.csv", ["--id-format=x"], "--id-format x: must contain {id} or {name} and no other field in braces"),
        ("a.csv", ["--id-format={id}{stem}"], "--id-format {id}{stem}: must contain"),
        ("a.csv", ["--id-format={id!r}"], "--id-format {id!r}: must contain"),
        ("a.csv", ["--id-format={id"], "--id-format {id: must contain"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    out: str, options: list[str], message: str, run: Path, home: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert call(run, home / "test", tmp_path / out, *options) == 2
    assert read_error(capsys).startswith(message)
    assert not list(tmp_path.iterdir())


def test_run_on_audio_takes_no_arrays(
    checkpoint: Path, audio_folder: Path, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reason = "arrays are predicted by runs that were trained on ready frames, such as those of data=patreco"
    assert call(checkpoint, home / "test", tmp_path / "a.csv") == 2
    assert read_error(capsys) == f"{home / 'test'}: has arrays of frames (6) and no audio files; {reason}"
    array = home / "test" / "98.fused.full.npy"
    assert call(checkpoint, array, tmp_path / "a.csv") == 2
    assert read_error(capsys) == f"{array}: is an array of frames; {reason}"
    for name in ("a.ogg", "song.mp3"):
        (tmp_path / "sounds").mkdir(exist_ok=True)
        shutil.copy(audio_folder / name, tmp_path / "sounds")
    shutil.copy(array, tmp_path / "sounds")
    assert call(checkpoint, tmp_path / "sounds", tmp_path / "a.csv") == 0
    assert "array of frames in a folder of audio files: 1" in caplog.text
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table) == ["Id", "genre", "valence", "energy"] and list(table["Id"]) == ["a.ogg", "song.mp3"]
    assert set(table["genre"]) <= {"<b>loud", "quiet", "soft"}


def test_folder_of_results_and_python(run: Path, arrays: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    np.save(arrays / "104.fused.full.npy", np.zeros((9, 9)))
    assert main([str(tmp_path / "run"), str(arrays), "--workers=1"]) == 1
    folder = tmp_path / "run" / "predict"
    files = pd.read_csv(folder / "files.csv").set_index("path")
    assert files["error"].notna().sum() == 1 and not (folder / "predict.html").exists()
    predictions = etude.load(run).predict(arrays)
    np.testing.assert_allclose(predictions.files["energy.pred"], files["energy.pred"], atol=1e-6)
    assert predictions.files["error"].dropna().tolist() == ["has shape (9, 9), expected (140, T)"]
    assert len(predictions.windows) == 6
    with pytest.raises(UserError, match=r"^window=3: is for audio files only"):
        etude.load(run).predict(arrays, window=3)


def test_arrays_of_another_time_unit_give_a_warning(run: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = etude.load(run).predict(home.with_name(f"{home.name}_beat") / "test").files
    assert files["error"].isna().all()
    assert "check that the arrays are not beat-synchronous, as in training" in caplog.text
    caplog.clear()
    etude.load(run).predict(home / "test")
    assert not caplog.records


def test_format_of_ids_follows_the_data_of_the_run(run: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert array_id_format(run / "checkpoints" / "best.ckpt") == "{id}.fused.full.npy.gz"
    assert array_id_format(checkpoint) == "{name}"  # there is no config
    for name, expected in (("patreco", "{id}.fused.full.npy.gz"), ("gtzan", "{name}")):
        member = {"_target_": f"etude.data.sources.{name}.collection"}
        source = {"_target_": "etude.data.sources.union.collection", "sources": {"first": member}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"source": source}}))
        assert array_id_format(checkpoint) == expected


def test_ids_are_sorted_as_numbers_if_all_are_numbers() -> None:
    paths = [Path("a") / name for name in ("10.x.npy", "9.npy.gz", "100.npy")]
    assert list(sort_by_id(paths, "{id}")) == ["9", "10", "100"]
    assert list(sort_by_id([*paths, Path("b.mp3")], None, "{id}.y")) == ["10.y", "100.y", "9.y", "b.mp3"]
    with pytest.raises(UserError, match=r"^a/9\.npy\.gz and b/9\.mp3 have the same id 9; "):
        sort_by_id([*paths, Path("b/9.mp3")], "{id}")
