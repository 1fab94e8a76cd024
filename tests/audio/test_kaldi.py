"""Tests of the front ends of published networks, whose frames equal those of the authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.filterbanks import mel_bank
from etude.audio.kaldi import ASTFront, EfficientATFront
from etude.config.instantiate import make
from etude.data.batches import Feature
from etude.data.sources.demo import HOME

CLIPS = [sorted((HOME / "clips" / genre).iterdir())[0] for genre in ("electronic", "metal", "orchestral")]


def triangles(rate: int, n_fft: int, count: int, low: float, high: float) -> np.ndarray:
    """Return Kaldi's filters, computed bin by bin."""

    def mel(f: float) -> float:
        return 1127.0 * np.log(1.0 + f / 700.0)

    step = (mel(high) - mel(low)) / (count + 1)
    bank = np.zeros((n_fft // 2 + 1, count))
    for band in range(count):
        left, centre, right = (mel(low) + (band + i) * step for i in range(3))
        for k in range(n_fft // 2):
            m = mel(k * rate / n_fft)
            if left < m < right:
                bank[k, band] = (m - left) / (centre - left) if m <= centre else (right - m) / (right - centre)
    return bank


@pytest.mark.parametrize("setting", [(32000, 1024, 128, 0.0, 15000.0), (16000, 512, 40, 20.0, 8000.0)])
def test_filters_equal_kaldi(setting: tuple[int, int, int, float, float]) -> None:
    np.testing.assert_allclose(mel_bank(*setting), triangles(*setting), atol=1e-6)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.parent.name)
def test_efficientat_frames_equal_a_direct_computation(path: Path) -> None:
    audio = decode(path, 32000)
    result = EfficientATFront().frames(audio)
    x = audio[1:].astype(np.float64) - 0.97 * audio[:-1]
    x = np.pad(x, 512, mode="reflect")
    window = np.zeros(1024)
    window[112:912] = np.hanning(800)
    expected = []
    for start in range(0, len(x) - 1023, 320):
        power = np.abs(np.fft.rfft(x[start : start + 1024] * window)) ** 2
        expected.append((np.log(power @ TRIANGLES_32_KHZ + 1e-5) + 4.5) / 5)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.array(expected), atol=2e-3)
    assert result.shape == (1 + (len(audio) - 1) // 320, 128)


TRIANGLES_32_KHZ = triangles(32000, 1024, 128, 0.0, 15000.0)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.parent.name)
def test_ast_frames_equal_transformers(path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    audio = decode(path, 16000)
    result = ASTFront().frames(audio)
    expected = transformers.ASTFeatureExtractor()(audio, sampling_rate=16000, return_tensors="np")["input_values"][0]
    assert result.shape == (1 + (len(audio) - 400) // 160, 128)
    np.testing.assert_allclose(result, expected[: len(result)], atol=1e-3)


@pytest.mark.parametrize("front", [EfficientATFront(), ASTFront()], ids=lambda front: type(front).__name__)
def test_short_and_silent_clips_have_finite_frames(front: EfficientATFront | ASTFront) -> None:
    for audio in (np.ones(1, np.float32), np.zeros(100, np.float32), np.zeros(5000, np.float32)):
        frames = front.frames(audio)
        assert len(frames) >= 1
        assert frames.shape[1] == front.bins == 128
        assert np.isfinite(frames).all()


@pytest.mark.parametrize("front", [EfficientATFront(), ASTFront(mean=0.0)], ids=lambda front: type(front).__name__)
def test_front_end_is_restored_from_plain_values(front: EfficientATFront | ASTFront) -> None:
    assert make(front.to_dict()) == front


def test_unsupported_features_raise() -> None:
    with pytest.raises(ValueError, match=r"feature\.sync=beat: ASTFront supports only feature\.sync=none"):
        Feature("mel", "beat", ASTFront())
    with pytest.raises(ValueError, match=r"feature\.view=chroma: this front end computes no chroma"):
        Feature("chroma", "none", EfficientATFront())
