"""A file in any codec gives the samples that were written, and a broken one gives one sentence that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from etude.audio.decode import DecodeError, decode
from etude.data.sources.demo import HOME


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Three seconds of a real clip, off full scale so that no codec clips it."""
    audio = decode(sorted((HOME / "clips" / "orchestral").iterdir())[0], 22050)[: 3 * 22050]
    return (0.8 * audio / np.abs(audio).max()).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 22050, subtype: str | None = None) -> Path:
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_lossless_is_exact_to_a_16_bit_step(name: str, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write(tmp_path / name, clip), 22050)
    assert audio.dtype == np.float32
    np.testing.assert_allclose(audio, clip, atol=2**-15, rtol=0)


def test_float_is_exact(clip: np.ndarray, tmp_path: Path) -> None:
    np.testing.assert_array_equal(decode(write(tmp_path / "a.wav", clip, subtype="FLOAT"), 22050), clip)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_keeps_length_place_and_sound(name: str, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write(tmp_path / name, clip), 22050)
    assert audio.shape == clip.shape
    error = np.square(audio - clip).mean() / np.square(clip).mean()
    assert error < 0.04
    assert np.square(np.roll(audio, 20) - clip).mean() / np.square(clip).mean() > 2 * error  # in place: no delay


def test_channels_are_averaged(clip: np.ndarray, tmp_path: Path) -> None:
    stereo = np.stack([clip, -0.5 * clip], axis=1)
    audio = decode(write(tmp_path / "a.wav", stereo, subtype="FLOAT"), 22050)
    np.testing.assert_allclose(audio, 0.25 * clip, atol=1e-7)


@pytest.mark.parametrize(("native", "rate"), [(44100, 22050), (22050, 16000), (8000, 22050)])
def test_another_rate_is_resampled_by_soxr(native: int, rate: int, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write(tmp_path / "a.wav", clip, native, subtype="FLOAT"), rate)
    np.testing.assert_allclose(audio, soxr.resample(clip, native, rate), atol=1e-6)
    assert len(audio) == round(len(clip) * rate / native)


def test_a_tone_is_the_same_tone_at_another_rate(tmp_path: Path) -> None:
    tone = {rate: 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate) for rate in (22050, 44100)}
    audio = decode(write(tmp_path / "a.wav", tone[44100], 44100, subtype="FLOAT"), 22050)
    np.testing.assert_allclose(audio[500:-500], tone[22050][500:-500], atol=1e-4)


def nothing(path: Path) -> None:
    """Writes no file at all."""


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("This was meant to be music.\n" * 100)


def empty(path: Path) -> None:
    path.touch()


def no_samples(path: Path) -> None:
    write(path, np.zeros(0, np.float32))


def not_a_number(path: Path) -> None:
    write(path, np.array([0.0, np.nan, 0.0], np.float32), subtype="FLOAT")


def infinite(path: Path) -> None:
    write(path, np.array([[0.0, np.inf]] * 3, np.float32), subtype="FLOAT")


@pytest.mark.parametrize(
    ("broken", "name", "said"),
    [
        (nothing, "a.wav", "there is no such file"),
        (folder, "a.wav", "there is no such file"),
        (text, "a.mp3", "cannot be decoded"),
        (text, "a.wav", "cannot be decoded"),
        (empty, "a.mp3", "cannot be decoded"),
        (empty, "a.wav", "cannot be decoded"),
        (no_samples, "a.wav", "holds no samples"),
        (not_a_number, "a.wav", "NaN or infinite"),
        (infinite, "a.wav", "NaN or infinite"),
    ],
)
def test_a_broken_file_is_named_in_one_sentence(broken, name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    broken(path)
    with pytest.raises(DecodeError) as error:
        decode(path, 22050)
    sentence = str(error.value)
    assert sentence.startswith(f"{path}: ")
    assert said in sentence
    assert "\n" not in sentence
    assert "does not exist" not in sentence  # libsndfile's word for an MP3 that is none; nobody should look for it
