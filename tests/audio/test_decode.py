"""Tests of decoding of all codecs and sample rates."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from tests.audio.encoding import encode_with_ffmpeg, needs_ffmpeg, write_audio

from etude.audio.clip_statistics import SoundStatistics
from etude.audio.decode import decode, stream
from etude.audio.formats import TooLongError

RATES = (8000, 16000, 22050, 44100, 48000, 96000)


def relative_error(audio: np.ndarray, clip: np.ndarray) -> float:
    """Return the mean squared error relative to the power, over the common length."""
    length = min(len(audio), len(clip))
    return float(np.square(audio[:length] - clip[:length]).mean() / np.square(clip).mean())


def peak_frequency(audio: np.ndarray, rate: int) -> float:
    """Return the frequency of the strongest partial, in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))))) * rate / len(audio)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-24),  # the resolution of float32
        ("a.wav", "FLOAT", 0),
        ("a.wav", "DOUBLE", 0),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_codecs_are_exact_to_a_quantisation_step(
    name: str, subtype: str, step: float, channels: int, clip: np.ndarray, tmp_path: Path
) -> None:
    signal = clip if channels == 1 else np.stack([clip, -0.5 * clip], axis=1)
    audio = decode(write_audio(tmp_path / name, signal, subtype=subtype), 22050)
    assert audio.dtype == np.float32
    assert audio.shape == clip.shape
    expected = signal if channels == 1 else signal.mean(axis=1)
    np.testing.assert_allclose(audio, expected, atol=step or 1e-8, rtol=0)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_codecs_keep_length_timing_and_signal(name: str, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write_audio(tmp_path / name, clip), 22050)
    assert audio.shape == clip.shape
    error = relative_error(audio, clip)
    assert error < 0.04
    assert relative_error(np.roll(audio, 20), clip) > 2 * error  # no delay


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options", "max_seconds"),
    [
        ("a.m4a", (), 0.05),
        ("a.opus", ("-ar", "48000"), 0.0),
        ("a.wma", (), 0.1),
        ("a.aac", (), 0.1),  # without a header that states the padding
        ("a.mp3", ("-b:a", "128k"), 0.0),
        ("a.flac", (), 0.0),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_written_by_ffmpeg_are_decoded(
    name: str, options: tuple[str, ...], max_seconds: float, channels: int, clip: np.ndarray, tmp_path: Path
) -> None:
    signal = clip if channels == 1 else np.stack([clip, 0.25 * clip], axis=1)
    audio = decode(encode_with_ffmpeg(tmp_path / name, signal, 22050, *options), 22050)
    assert abs(len(audio) - len(clip)) <= max_seconds * 22050 + 2
    expected = clip if channels == 1 else 0.625 * clip
    max_delay = int(max_seconds * 22050)
    padded = np.concatenate([np.zeros(max_delay, np.float32), audio])
    assert min(relative_error(padded[lag:], expected) for lag in range(2 * max_delay + 1)) < 0.05


def test_channels_are_averaged(clip: np.ndarray, tmp_path: Path) -> None:
    for channels in (2, 6):
        weights = np.linspace(-0.3, 1, channels)
        audio = decode(write_audio(tmp_path / "a.wav", clip[:, None] * weights, subtype="FLOAT"), 22050)
        np.testing.assert_allclose(audio, weights.mean() * clip, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "native"),
    [
        *((name, rate) for name in ("a.wav", "a.flac", "a.ogg") for rate in RATES),
        *(("a.mp3", rate) for rate in RATES[:-1]),
        *(
            pytest.param(name, rate, marks=needs_ffmpeg)
            for name in ("a.m4a", "a.opus")
            for rate in (8000, 44100, 48000)
        ),
    ],
)
def test_tone_keeps_pitch_length_and_level_at_any_rate(name: str, native: int, channels: int, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(native) / native)
    signal = tone if channels == 1 else np.stack([tone, 0.5 * tone], axis=1)
    path = tmp_path / name
    if name in ("a.m4a", "a.opus"):
        encode_with_ffmpeg(path, signal, native, *(("-ar", "48000") if name == "a.opus" else ()))
    else:
        write_audio(path, signal, native)
    audio = decode(path, 22050)
    # AAC consists of packets of 1024 samples
    assert abs(len(audio) - 22050) <= (0.15 * 22050 if name == "a.m4a" else 2)
    middle = audio[5000:15000]
    assert peak_frequency(middle, 22050) == pytest.approx(1000, abs=2.3)
    level = 0.5 * (1 if channels == 1 else 0.75)
    assert np.sqrt(2 * np.square(middle).mean()) == pytest.approx(level, rel=0.05)


@pytest.mark.parametrize(("native", "rate"), [(44100, 22050), (22050, 16000), (8000, 22050), (96000, 44100)])
def test_other_rates_are_resampled_by_soxr(native: int, rate: int, clip: np.ndarray, tmp_path: Path) -> None:
    audio = decode(write_audio(tmp_path / "a.wav", clip, native, subtype="FLOAT"), rate)
    np.testing.assert_allclose(audio, soxr.resample(clip, native, rate), atol=1e-6)
    assert len(audio) == round(len(clip) * rate / native)


def test_resampled_tone_equals_tone_at_that_rate(tmp_path: Path) -> None:
    tone = {rate: 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate) for rate in (22050, 44100)}
    audio = decode(write_audio(tmp_path / "a.wav", tone[44100], 44100, subtype="FLOAT"), 22050)
    np.testing.assert_allclose(audio[500:-500], tone[22050][500:-500], atol=1e-4)


@needs_ffmpeg
def test_mp3_without_a_xing_header_is_decoded_completely(clip: np.ndarray, tmp_path: Path) -> None:
    path = encode_with_ffmpeg(tmp_path / "a.mp3", clip, 22050, "-write_xing", "0", "-b:a", "64k")
    assert len(decode(path, 22050)) == pytest.approx(len(clip), abs=0.15 * 22050)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_blocks_equal_the_decoded_file(
    name: str, clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_audio(tmp_path / name, np.stack([clip, 0.3 * clip], 1), 44100)
    complete = decode(path, 22050)
    monkeypatch.setattr("etude.audio.decode.BLOCK", 5001)
    blocks = list(stream(path, 22050))
    assert len(blocks) > 20
    np.testing.assert_array_equal(np.concatenate(blocks), complete)


def test_decoding_stops_at_the_maximum_length(
    clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(decode(write_audio(tmp_path / "a.flac", clip), 22050, 3.0)) == len(clip)
    for suffix in ("flac", "ogg", "mp3"):
        path = write_audio(tmp_path / f"a.{suffix}", clip)
        with pytest.raises(TooLongError, match=rf"^{path}: is too long \(3 s or more; at most 2 s are accepted\)"):
            decode(path, 22050, 2.0)
    monkeypatch.setattr("etude.audio.decode.BLOCK", 1000)
    monkeypatch.setattr(soundfile.SoundFile, "__len__", lambda file: 0)  # a header without the length
    statistics = SoundStatistics()
    with pytest.raises(TooLongError, match="is too long"):
        decode(path, 22050, 2.0, statistics)
    assert statistics.count <= 2 * 22050 + 1000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_file_names_may_contain_any_bytes(clip: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"latin\xe9.wav")
    with path.open("wb") as file:
        soundfile.write(file, clip, 22050, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(decode(path, 22050), clip)
