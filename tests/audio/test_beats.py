"""Tests of beats and beat-synchronous frames, which equal those of librosa."""

from __future__ import annotations

import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.ndimage

from etude.audio.decode import decode
from etude.audio.descriptors import KERNEL, percussive, running_median, track_beats
from etude.audio.log_mel import LogMelChroma, frames
from etude.data.sources.demo import HOME

pytestmark = pytest.mark.usefixtures("compiled_librosa")
CLIPS = [
    sorted((HOME / "clips" / genre).iterdir())[i] for genre in ("electronic", "metal", "orchestral") for i in (0, 7)
]
FRONTS = [LogMelChroma(rate=16000, n_fft=1024, hop_length=256), LogMelChroma(rate=44100, n_fft=2048, hop_length=1024)]


def clip_or_front_name(value: object) -> str:
    return value.stem if isinstance(value, Path) else f"{value.rate}-{value.n_fft}" if value else ""  # type: ignore


def librosa_beats(audio: np.ndarray, front: LogMelChroma) -> np.ndarray:
    """Return the beats by librosa."""
    percussion = librosa.effects.hpss(audio, n_fft=front.n_fft, hop_length=front.hop_length)[1]
    onsets = librosa.onset.onset_strength(
        y=percussion, sr=front.rate, n_fft=front.n_fft, hop_length=front.hop_length, aggregate=np.median
    )
    return librosa.beat.beat_track(onset_envelope=onsets, sr=front.rate, hop_length=front.hop_length)[1]


def librosa_frames(audio: np.ndarray, front: LogMelChroma, beats: np.ndarray) -> np.ndarray:
    """Return beat-synchronous frames by librosa, from the median mel power and the median chroma."""
    shared = {"y": audio, "sr": front.rate, "n_fft": front.n_fft, "hop_length": front.hop_length}
    mel = librosa.feature.melspectrogram(**shared, n_mels=front.n_mels)
    mel = librosa.power_to_db(librosa.util.sync(mel, beats, aggregate=np.median), ref=np.max)
    chroma = librosa.feature.chroma_stft(**shared, tuning=front.tuning)
    return np.concatenate([mel, librosa.util.sync(chroma, beats, aggregate=np.median)]).T


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(60, 47), (31, 33), (31, 31), (30, 400), (400, 5), (14, 15), (16, 3), (1, 1)])
def test_running_median_equals_scipy(shape: tuple[int, int], axis: int) -> None:
    x = np.random.default_rng(0).gamma(0.1, size=shape).astype(np.float32)
    x[x < np.median(x)] = 0  # spectra have ties
    size = [1, 1]
    size[axis] = KERNEL
    result = running_median(x, axis)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, scipy.ndimage.median_filter(x, size=size, mode="reflect"))


@pytest.mark.parametrize("width", [1, 2, 3, 14, 15, 16, 40])
def test_running_median_is_the_median_of_the_mirrored_row(width: int) -> None:
    """Compare with the definition, because scipy is wrong for two frames."""
    row = np.random.default_rng(width).random(width).astype(np.float32)
    indices = np.arange(-15, width + 15) % (2 * width)
    mirrored = np.concatenate([row, row[::-1]])[indices]
    expected = [np.median(mirrored[i : i + 31]) for i in range(width)]
    np.testing.assert_array_equal(running_median(np.stack([row, row + 1]), 1), [expected, np.array(expected) + 1])


@pytest.mark.parametrize("axis", [0, 1])
def test_running_median_of_a_real_spectrum_equals_scipy(axis: int) -> None:
    x = np.abs(librosa.stft(decode(CLIPS[2], 22050)[: 4 * 22050]))
    np.testing.assert_array_equal(
        running_median(x, axis), scipy.ndimage.median_filter(x, size=(KERNEL, 1)[:: 1 - 2 * axis], mode="reflect")
    )


@pytest.mark.parametrize("path", CLIPS[::2], ids=clip_or_front_name)
def test_percussive_component_equals_librosa(path: Path) -> None:
    audio = decode(path, 22050)
    np.testing.assert_allclose(percussive(audio, LogMelChroma()), librosa.effects.hpss(audio)[1], atol=2e-6, rtol=0)


@pytest.mark.parametrize("front", FRONTS, ids=clip_or_front_name)
def test_percussive_component_equals_librosa_with_other_windows(front: LogMelChroma) -> None:
    audio = decode(CLIPS[2], front.rate)
    expected = librosa.effects.hpss(audio, n_fft=front.n_fft, hop_length=front.hop_length)[1]
    np.testing.assert_allclose(percussive(audio, front), expected, atol=2e-6, rtol=0)


def test_clicks_are_percussive_and_tones_are_not() -> None:
    """Separate a tone with clicks, without a comparison with librosa."""
    time = np.arange(3 * 22050) / 22050
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    clicks = np.zeros_like(tone)
    clicks[11025::11025] = 1.0
    result = percussive((tone + clicks).astype(np.float32), LogMelChroma())
    near = np.convolve(clicks, np.ones(5), "same") > 0
    assert np.abs(result[near]).max() > 0.5
    assert np.sqrt(np.square(result[5000:-5000][~near[5000:-5000]]).mean()) < 0.02


@pytest.mark.parametrize("path", CLIPS, ids=clip_or_front_name)
def test_beats_equal_librosa(path: Path) -> None:
    audio = decode(path, 22050)
    expected = librosa.beat.beat_track(y=librosa.effects.hpss(audio)[1], sr=22050)[1]
    assert len(expected) > 5
    np.testing.assert_array_equal(track_beats(audio, LogMelChroma()), expected)


@pytest.mark.parametrize("front", FRONTS, ids=clip_or_front_name)
def test_beats_equal_librosa_with_other_windows(front: LogMelChroma) -> None:
    audio = decode(CLIPS[2], front.rate)
    expected = librosa_beats(audio, front)
    assert len(expected) > 5
    np.testing.assert_array_equal(track_beats(audio, front), expected)


def test_bands_and_range_of_the_front_end_do_not_change_beats() -> None:
    audio = decode(CLIPS[3], 22050)
    fronts = [LogMelChroma(), LogMelChroma(n_mels=16, fmin=500.0, fmax=4000.0, top_db=20.0, ref="one", sync="beat")]
    beats, other_beats = (track_beats(audio, front) for front in fronts)
    np.testing.assert_array_equal(beats, other_beats)


def test_beats_follow_a_metronome() -> None:
    """Track 120 clicks per minute, without a comparison with librosa."""
    audio = np.zeros(10 * 22050, np.float32)
    for start in range(0, len(audio), 11025):
        audio[start : start + 200] = np.random.default_rng(0).uniform(-1, 1, 200)
    seconds = track_beats(audio, LogMelChroma()) * 512 / 22050
    assert len(seconds) >= 16
    assert np.abs(seconds / 0.5 - np.round(seconds / 0.5)).max() * 0.5 < 2 * 512 / 22050
    np.testing.assert_allclose(np.diff(seconds), 0.5, atol=2 * 512 / 22050)


@pytest.mark.parametrize(
    "front", [LogMelChroma(sync="beat"), LogMelChroma(sync="beat", tuning=None)], ids=["A440", "estimated"]
)
@pytest.mark.parametrize("path", CLIPS[1::2], ids=clip_or_front_name)
def test_beat_synchronous_frames_equal_librosa(path: Path, front: LogMelChroma) -> None:
    audio = decode(path, 22050)
    expected = librosa_frames(audio, front, librosa_beats(audio, front))
    result = frames(audio, front)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    np.testing.assert_allclose(result[:, :128], expected[:, :128], atol=1e-3, rtol=0)
    np.testing.assert_allclose(result[:, 128:], expected[:, 128:], atol=1e-5, rtol=0)
    assert result[:, :128].max() == 0.0


@pytest.mark.parametrize("beats", [[40], [0, 40], [1, 2, 3, 200], [430]], ids=str)
def test_given_beats_are_used(beats: list[int]) -> None:
    audio, front = decode(CLIPS[4], 22050), LogMelChroma(sync="beat")
    expected = librosa_frames(audio, front, np.array(beats))
    np.testing.assert_allclose(frames(audio, front, np.array(beats)), expected, atol=1e-3, rtol=0)


def librosa_constant_q(audio: np.ndarray, beats: np.ndarray) -> np.ndarray:
    return librosa.util.sync(librosa.feature.chroma_cqt(y=audio, sr=22050), beats, aggregate=np.median).T


def test_beat_synchronous_constant_q_equals_librosa() -> None:
    audio, front = decode(CLIPS[0], 22050), LogMelChroma(chroma="cqt", tuning=None, sync="beat")
    expected = librosa_constant_q(audio, track_beats(audio, front))
    np.testing.assert_allclose(frames(audio, front)[:, 128:], expected, atol=1e-5, rtol=0)


def audio_without_beats(kind: str) -> np.ndarray:
    time = np.arange(2 * 22050) / 22050
    return {
        "1 sample": np.full(1, 0.5),
        "100 samples": np.sin(2 * np.pi * 440 * time[:100]),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "a swell": 0.3 * np.sin(2 * np.pi * 110 * time) * time / 2,
        "silence": np.zeros(len(time)),
    }[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["1 sample", "100 samples", "a tone", "a swell", "silence"])
def test_clip_without_beats_is_one_frame(kind: str) -> None:
    """Compute the only interval, which is the complete clip."""
    audio, front = audio_without_beats(kind), LogMelChroma(sync="beat")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=")
        assert len(librosa_beats(audio, front)) == 0
        expected = librosa_frames(audio, front, np.array([0]))  # librosa returns no frames without beats
    assert track_beats(audio, front).shape == (0,)
    result = frames(audio, front)
    assert result.shape == (1, 140)
    np.testing.assert_allclose(result, expected, atol=1e-3, rtol=0)


def test_clip_with_one_beat_is_two_frames() -> None:
    audio = np.zeros(22050, np.float32)
    audio[11025:11225] = np.random.default_rng(1).uniform(-1, 1, 200)
    front = LogMelChroma(sync="beat")
    beats = track_beats(audio, front)
    assert len(beats) == 1
    assert abs(int(beats[0]) - 11025 // 512) <= 2
    np.testing.assert_allclose(frames(audio, front), librosa_frames(audio, front, beats), atol=1e-3, rtol=0)
    assert frames(audio, front).shape == (2, 140)
