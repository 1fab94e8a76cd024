"""Tests of the collection of handwritten digits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from etude.audio.frontend import ImageFront
from etude.audio.log_mel import LogMelChroma
from etude.data.datamodule import build_datamodule
from etude.data.pack import PackOptions
from etude.data.packing import open_pack
from etude.data.sources.digits import collection
from etude.errors import DataError, UserError
from etude.experiment.stages import run_experiment

Config = Callable[..., dict[str, Any]]


def test_each_image_has_its_label(packs: Path) -> None:
    pack, digits = collection().pack(ImageFront(), PackOptions(packs)), load_digits()
    assert pack.lengths.tolist() == [24] * 1797
    assert pack.frames.shape[1] == 24
    assert pack.index["digit"].tolist() == [str(digit) for digit in digits.target]
    assert pack.index["group"].isna().all()
    assert (pack.frames.min(), pack.frames.max()) == (0, 1)
    for row in (0, 700, 1796):
        image, frames = digits.images[row] / 16, pack.clip(row).astype(float)
        # the middle of three pixels is the original pixel
        np.testing.assert_allclose(frames[1::3, 1::3], image, atol=1e-3)
        between = (2 * image[:, :-1] + image[:, 1:]) / 3
        np.testing.assert_allclose(frames[1::3, 2:-1:3], between, atol=1e-3)


def test_pack_is_written_once(packs: Path) -> None:
    first = collection().pack(ImageFront(), PackOptions(packs))
    written = (first.folder / "frames.f16").stat().st_mtime_ns
    again = collection().pack(ImageFront(), PackOptions(packs))
    assert (again.folder, (again.folder / "frames.f16").stat().st_mtime_ns) == (first.folder, written)
    again.verify()
    larger = collection().pack(ImageFront(n_mels=32), PackOptions(packs))
    assert larger.frames.shape[1] == 32
    assert larger.folder != first.folder


def test_audio_front_end_is_refused(packs: Path) -> None:
    with pytest.raises(DataError, match=r"^data=digits: the collection contains images; [^\n]*feature=image$"):
        collection().pack(LogMelChroma(), PackOptions(packs))


def test_image_front_end_refuses_audio(tmp_path: Path) -> None:
    from etude.data.sources import demo

    with pytest.raises(
        UserError, match=r"^feature=image: requires images, but demo contains audio; [^\n]*feature=mel$"
    ):
        open_pack(demo.collection(), ImageFront(), PackOptions(tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="use another feature for audio"):
        ImageFront().frames(np.zeros(50, np.float32))


@pytest.mark.parametrize("invalid", [{"sync": "beat"}, {"n_chroma": 12}])
def test_image_front_end_has_no_beats_or_chroma(invalid: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n_chroma must be 0 and sync must be none"):
        ImageFront(**invalid)


def test_image_of_any_size_gives_frames() -> None:
    image = np.outer(np.linspace(0, 1, 48), np.ones(48))
    frames = ImageFront().frames(image)
    assert (frames.shape, frames.dtype) == ((24, 24), np.float32)
    np.testing.assert_allclose(frames, image.reshape(24, 2, 24, 2).mean((1, 3)), atol=0.02)
    with pytest.raises(ValueError, match=r"must be \(H, W\), got \(24,\)"):
        ImageFront().frames(image[0, :24])


def test_config_sets_image_feature_and_no_crop(config: Config) -> None:
    datamodule = build_datamodule(config("data=digits"))
    datamodule.setup()
    assert isinstance(datamodule.feature.front, ImageFront)
    assert (datamodule.feature.bins, datamodule.crop, datamodule.batch_size) == (24, None, 32)
    digits = datamodule.pack.index["digit"]
    counts = np.array([digits[datamodule.splits == split].value_counts(normalize=True).sort_index()
                       for split in ("train", "val", "test")])  # fmt: skip
    np.testing.assert_allclose(counts, 0.1, atol=0.01)  # stratified


def test_pack_can_be_used_as_collection(config: Config, packs: Path) -> None:
    pack = collection().pack(ImageFront(), PackOptions(packs))
    datamodule = build_datamodule(config("data=pack", f"data.source.path={pack.folder}", "feature=image"))
    datamodule.setup()
    assert datamodule.targets["digit"]["classes"] == [str(digit) for digit in range(10)]
    assert "images" in datamodule.source.note


def test_small_network_learns_digits_in_few_epochs(config: Config, tmp_path: Path) -> None:
    result = run_experiment(config("experiment=reproduction/step7/digits", "trainer.max_epochs=5"), tmp_path)
    scores = result["targets"]["digit"]["splits"]["test"]["scores"]
    assert scores["accuracy"]["value"] > 0.95
    assert json.loads((tmp_path / "record.json").read_text())["model"]["parameters"] == 5994
    assert "images of handwritten digits" in (tmp_path / "report.html").read_text()
