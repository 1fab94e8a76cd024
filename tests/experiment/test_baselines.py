"""Tests of the statistics of clips, and of baselines that runs share."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir

from etude.audio.clip_statistics import StatisticsFront, default_front_end, frame_statistics
from etude.audio.kaldi import EfficientATFront
from etude.config.compose import conf_dir
from etude.config.instantiate import make
from etude.data.batches import Feature
from etude.data.datamodule import MusicData
from etude.data.packing import open_pack
from etude.data.sources import pack as packs_of
from etude.data.sources import table, union
from etude.data.splits import Split
from etude.errors import DataError
from etude.evaluation.linear_models import fit_linear_model
from etude.experiment import baselines
from etude.runs.schemas import BASELINE, find_fault

RATE, CLIPS = 22050, 24
SECONDS = 1.2


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a table of short clips of six artists, whose label is their pitch and whose scalar is their level."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(0)
    lines = ["id,path,group,pitch,level"]
    for i in range(CLIPS):
        time, level = np.arange(int(SECONDS * RATE)) / RATE, rng.uniform(0.1, 0.9)
        tone = level * np.sin(2 * np.pi * (300 if i % 2 else 2000) * time) + rng.normal(size=len(time)) * 0.02
        soundfile.write(folder / f"{i:02d}.wav", 0.7 * tone, RATE)
        lines.append(f"{i:02d},{i:02d}.wav,artist {i // 4},{'low' if i % 2 else 'high'},{level:.3f}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def make_data(music: Path, packs: Path, front: Any = None, **options: Any) -> MusicData:
    source = options.pop("source", None) or table.collection(str(music))
    feature = Feature(front=front or default_front_end())
    data = MusicData(
        source, feature, Split(fractions=(0.5, 0.25, 0.25), duplicates="allow"), packs=str(packs), **options
    )
    data.pack_options = replace(data.pack_options, workers=1)
    data.setup()
    return data


def fit(data: MusicData) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, Any]]]:
    return baselines.fit_baselines(data, np.flatnonzero(data.splits != "train"), data.targets, 1.0)


def test_statistics_of_frames_equal_numpy() -> None:
    frames = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
    exact = frames.astype(np.float64)
    change = np.abs(np.diff(exact, axis=0)).mean(0)
    expected = [exact.mean(0), exact.std(0), change, *np.percentile(exact, [10, 50, 90], axis=0)]
    np.testing.assert_allclose(frame_statistics(frames).reshape(6, 7), expected, rtol=1e-3, atol=1e-4)
    assert frame_statistics(frames[:1]).reshape(6, 7)[1:3].tolist() == [[0.0] * 7] * 2
    with pytest.raises(ValueError, match="at least 1"):
        frame_statistics(frames[:0])


def test_rhythm_has_its_maximum_at_the_tempo() -> None:
    from etude.audio.clip_statistics import TEMPI, rhythm_statistics

    times = np.arange(1292) / StatisticsFront().frames_per_second
    mel = np.repeat((times * 2 % 1 < 0.1)[:, None] * 30.0, 128, axis=1) - 60  # 120 BPM
    spectrum = rhythm_statistics(mel, StatisticsFront().frames_per_second)
    slow = TEMPI < 180  # without the harmonics
    assert TEMPI[slow][spectrum[slow].argmax()] == pytest.approx(120, rel=0.03)
    assert rhythm_statistics(mel[:1], 43.0).tolist() == [0.0] * len(TEMPI)


def test_default_front_end_is_that_of_the_config() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        front = make(compose("feature/front/default")["feature"]["front"])
    assert front == default_front_end() == Feature().front


def test_statistics_from_files_and_from_default_frames_are_equal(music: Path, tmp_path: Path) -> None:
    own = make_data(music, tmp_path / "default")
    other = make_data(music, tmp_path / "other", EfficientATFront())
    first, second = baselines.read_features(own), baselines.read_features(other)
    assert first.x.shape == (CLIPS, StatisticsFront().bins) and first.x.tobytes() == second.x.tobytes()
    assert first.name == second.name == "mel and chroma statistics"
    predictions, records = zip(fit(own), fit(other), strict=True)
    for name in own.targets:
        assert (predictions[0][name]["statistics"] == predictions[1][name]["statistics"]).all()
        assert records[0][name]["statistics"]["name"] == records[1][name]["statistics"]["name"]
    assert len(list((tmp_path / "other").glob("clips-*"))) == 2


def test_joined_validation_clips_have_predictions_of_inner_folds(music: Path, tmp_path: Path) -> None:
    data = make_data(music, tmp_path)
    data.fitted_splits = ("train", "val")
    rows = np.flatnonzero(data.splits != "train")
    predictions, _ = fit(data)
    fitted, x = np.flatnonzero(data.splits != "test"), baselines.read_features(data).x
    for name, target in data.targets.items():
        y, groups = data.pack.index[name].to_numpy(), data.pack.index["group"][fitted].tolist()
        expected = fit_linear_model(x[fitted], y[fitted], target["kind"], groups, max_seconds=30.0)
        assert expected.out_of_fold is not None
        for value, row in zip(predictions[name]["statistics"], rows, strict=True):
            inner = expected.out_of_fold[fitted == row]
            assert value == (inner[0] if len(inner) else expected.predict(x[row : row + 1].astype(np.float64))[0])


def test_default_pack_is_used_instead_of_decoding(music: Path, tmp_path: Path, monkeypatch: Any) -> None:
    make_data(music, tmp_path)
    data = make_data(music, tmp_path, EfficientATFront())
    monkeypatch.setattr(StatisticsFront, "frames", lambda *_: pytest.fail("a file was decoded"))
    assert baselines.read_features(data).x.shape == (CLIPS, StatisticsFront().bins)


def test_later_runs_read_stored_predictions_and_damaged_files_are_replaced(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(music, tmp_path)
    expected, records = fit(data)
    fitted, original = [], baselines.fit_linear_model

    def count(*arguments: Any, **options: Any) -> Any:
        fitted.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(baselines, "fit_linear_model", count)
    assert (fit(make_data(music, tmp_path))[1], fitted) == (records, [])
    stored = sorted((tmp_path / "baselines").iterdir())
    assert sorted(path.suffix for path in stored if path.suffix) == [".f16", ".json", ".json"]
    for damage in (b"", b"{}", b'{"key": 1}', b"[1, 2"):
        for path in stored:
            if path.suffix:
                path.write_bytes(damage)
        predictions, _ = fit(make_data(music, tmp_path))
        for name in data.targets:
            assert (predictions[name]["statistics"] == expected[name]["statistics"]).all()
    assert len(fitted) == 4 * len(data.targets)
    content = json.loads(next(path for path in stored if path.suffix == ".json").read_text())
    changed = make_data(music, tmp_path)
    changed.splits = np.where(changed.splits == "val", "train", changed.splits)
    fit(changed)
    assert len(fitted) == 5 * len(data.targets) and not find_fault(content["record"], BASELINE)


def test_number_of_stored_files_is_limited(music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_STORED", 1)
    fit(make_data(music, tmp_path))
    assert len(list((tmp_path / "baselines").glob("*.json"))) == 1


def test_read_only_packs_are_not_changed(music: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_data(music, tmp_path, EfficientATFront())
    before = sorted(tmp_path.rglob("*"))
    with caplog.at_level(logging.WARNING):
        data = make_data(music, tmp_path, EfficientATFront(), packs_read_only=True)
        _, records = fit(data)
    assert sorted(tmp_path.rglob("*")) == before
    assert records["pitch"]["statistics"]["name"].endswith(" on statistics of the given frames")
    assert "the baseline uses the frames of the network" in caplog.text


def test_clips_without_statistics_are_counted(music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(music, tmp_path, EfficientATFront())
    source = table.collection(str(music))
    rows = np.flatnonzero(data.splits != "train")
    kept = np.setdiff1d(np.arange(CLIPS), [rows[0], np.flatnonzero(data.splits == "train")[0]])
    partial = replace(source, table=source.table.iloc[kept].reset_index(drop=True), name="partial")
    pack = open_pack(partial, StatisticsFront(), data.pack_options)
    monkeypatch.setattr(baselines, "open_statistics", lambda _: pack)
    predictions, records = fit(data)
    assert records["pitch"]["statistics"]["remark"].startswith("2 clips without these features")
    assert predictions["pitch"]["statistics"][0] in ("low", "high") and len(predictions["pitch"]["statistics"]) == len(
        rows
    )


def test_unions_use_the_files_of_their_members_and_packs_their_frames(music: Path, tmp_path: Path) -> None:
    first = table.collection(str(music))
    source = union.collection({"a": first, "b": replace(first, name="other")})
    joined = make_data(music, tmp_path, EfficientATFront(), source=source)
    joined.splits = np.resize(["train", "val", "test"], 2 * CLIPS)
    assert union.has_audio(source) and baselines.read_features(joined).x.shape == (2 * CLIPS, 889)
    front = EfficientATFront()
    packed = packs_of.collection(str(open_pack(first, front, joined.pack_options).folder))
    data = make_data(music, tmp_path, front, source=packed)
    features = baselines.read_features(data)
    assert (features.name, features.x.shape) == ("statistics of the given frames", (CLIPS, 6 * front.bins))
    with pytest.raises(DataError):
        packed.pack(StatisticsFront(), data.pack_options)
    default = packs_of.collection(str(make_data(music, tmp_path).pack.folder))
    features = baselines.read_features(make_data(music, tmp_path, source=default))
    assert features.name == "mel and chroma statistics"


def test_baseline_of_a_separable_label_is_right(music: Path, tmp_path: Path) -> None:
    data = make_data(music, tmp_path)
    predictions, records = fit(data)
    rows = np.flatnonzero(data.splits != "train")
    assert (predictions["pitch"]["statistics"] == data.pack.index["pitch"].to_numpy()[rows]).all()
    record = records["pitch"]["statistics"]
    assert record["name"].endswith(" on mel and chroma statistics") and record["inner_score"] == 1
    assert np.corrcoef(predictions["level"]["statistics"], data.pack.index["level"][rows])[0, 1] > 0.5
