"""Tests of log-mel and chroma frames, which equal those of librosa."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.frontend import power_spectrum
from etude.audio.log_mel import LogMelChroma, MusicnnFront, estimate_tuning, frames
from etude.config.instantiate import make
from etude.data.sources.demo import HOME
from etude.errors import UserError

CLIPS = [path for genre in ("electronic", "metal", "orchestral") for path in sorted((HOME / "clips" / genre).iterdir())]
# the clips with the largest differences from librosa
LEAST_SIMILAR = ("freecol__tailwind__1", "marsshooter-data__12-Misanthropia__1")
SOME_CLIPS = [*CLIPS[:: len(CLIPS) // 6][:6], *(path for path in CLIPS if path.stem in LEAST_SIMILAR)]
ONE_PER_GENRE = [
    next(path for path in CLIPS if path.parent.name == genre) for genre in ("electronic", "metal", "orchestral")
]
FRONTS = [
    LogMelChroma(rate=16000, n_fft=1024, hop_length=160, n_mels=64, fmin=50.0, fmax=7000.0),
    LogMelChroma(rate=44100, n_fft=4096, hop_length=1024, n_mels=96, n_chroma=24, top_db=40.0),
    LogMelChroma(rate=48000, n_mels=40, fmin=300.0, tuning=None),
    LogMelChroma(n_fft=2000, hop_length=441, ref="one", tuning=0.3),
    LogMelChroma(n_fft=4096, hop_length=256, fmax=4000.0, n_chroma=24, tuning=None),
]
CONSTANT_Q = [
    LogMelChroma(chroma="cqt"),
    LogMelChroma(chroma="cqt", tuning=None),
    LogMelChroma(chroma="cqt", rate=32000, hop_length=1024, n_chroma=24, tuning=0.2),
]


def changed_parameters(front: LogMelChroma) -> str:
    """Return the parameters that differ from the defaults."""
    default = LogMelChroma().to_dict()
    return "-".join(f"{key}={value}" for key, value in front.to_dict().items() if value != default[key]) or "default"


def librosa_frames(audio: np.ndarray, front: LogMelChroma) -> np.ndarray:
    """Return the frames (T, F) by librosa."""
    shared: dict[str, Any] = {"y": audio, "sr": front.rate, "hop_length": front.hop_length}
    mel = librosa.feature.melspectrogram(
        **shared, n_fft=front.n_fft, n_mels=front.n_mels, fmin=front.fmin, fmax=front.fmax
    )
    decibels = librosa.power_to_db(mel, ref=np.max if front.ref == "max" else 1.0, top_db=front.top_db)
    shared |= {"n_chroma": front.n_chroma, "tuning": front.tuning}
    if front.chroma == "cqt":
        chroma = librosa.feature.chroma_cqt(**shared, bins_per_octave=3 * front.n_chroma)
    else:
        chroma = librosa.feature.chroma_stft(**shared, n_fft=front.n_fft)
    return np.concatenate([decibels, chroma]).T


def assert_equals_librosa(audio: np.ndarray, front: LogMelChroma) -> None:
    result, expected = frames(audio, front), librosa_frames(audio, front)
    assert result.dtype == np.float32
    assert result.shape == expected.shape == (1 + len(audio) // front.hop_length, front.n_mels + front.n_chroma)
    mel, expected_mel = result[:, : front.n_mels], expected[:, : front.n_mels]
    # quiet bands of loud frames are affected by the resolution of float32
    loud = expected_mel > expected_mel.max() - 70
    np.testing.assert_allclose(mel[loud], expected_mel[loud], atol=1e-3, rtol=0)
    np.testing.assert_allclose(mel, expected_mel, atol=2e-3, rtol=0)
    np.testing.assert_allclose(result[:, front.n_mels :], expected[:, front.n_mels :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("tuning", [0.0, None])
@pytest.mark.parametrize("path", SOME_CLIPS, ids=lambda path: path.stem)
def test_equals_librosa(path: Path, tuning: float | None) -> None:
    assert_equals_librosa(decode(path, 22050), LogMelChroma(tuning=tuning))


def test_estimated_tuning_equals_the_default_of_librosa_chroma() -> None:
    """Pass only samples to librosa, of a clip whose deviation from A440 is large enough for an effect."""
    audio = decode(CLIPS[1], 22050)
    expected = librosa.feature.chroma_stft(y=audio, sr=22050).T
    np.testing.assert_allclose(frames(audio, LogMelChroma(tuning=None))[:, 128:], expected, atol=1e-5, rtol=0)
    assert np.abs(frames(audio, LogMelChroma())[:, 128:] - expected).max() > 0.1


@pytest.mark.parametrize("front", FRONTS, ids=changed_parameters)
def test_equals_librosa_with_other_settings(front: LogMelChroma) -> None:
    assert_equals_librosa(decode(ONE_PER_GENRE[0], front.rate), front)


@pytest.mark.parametrize("front", CONSTANT_Q, ids=changed_parameters)
def test_constant_q_chroma_equals_librosa(front: LogMelChroma) -> None:
    assert_equals_librosa(decode(ONE_PER_GENRE[2], front.rate), front)


def test_default_constant_q_chroma_equals_the_default_of_librosa() -> None:
    audio = decode(ONE_PER_GENRE[1], 22050)
    result = frames(audio, LogMelChroma(chroma="cqt", tuning=None))[:, 128:]
    np.testing.assert_allclose(result, librosa.feature.chroma_cqt(y=audio, sr=22050).T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tuning", [0.0, None])
@pytest.mark.parametrize("count", [1, 2, 100, 511, 512, 1025, 2047])
def test_equals_librosa_on_clips_shorter_than_a_window(count: int, tuning: float | None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=")
        warnings.filterwarnings("ignore", "Trying to estimate tuning from empty")
        assert_equals_librosa(decode(ONE_PER_GENRE[2], 22050)[60_000:][:count], LogMelChroma(tuning=tuning))


@pytest.mark.parametrize("count", [128 * 512 - 1, 128 * 512, 256 * 512 - 1])
def test_block_boundaries_have_no_influence(count: int) -> None:
    assert_equals_librosa(decode(ONE_PER_GENRE[1], 22050)[:count], LogMelChroma())


@pytest.mark.parametrize("more", [{}, {"tuning": None}, {"chroma": "cqt"}], ids=str)
@pytest.mark.parametrize(("ref", "level"), [("max", 0.0), ("one", -100.0)])
def test_silence_is_finite(ref: str, level: float, more: dict[str, Any]) -> None:
    result = frames(np.zeros(22050, np.float32), LogMelChroma(ref=ref, **more))
    np.testing.assert_array_equal(result[:, :128], level)
    np.testing.assert_array_equal(result[:, 128:], 0.0)


def test_mel_spans_the_dynamic_range_and_chroma_peaks_at_one() -> None:
    result = frames(decode(ONE_PER_GENRE[1], 22050), LogMelChroma(top_db=30.0))
    mel, chroma = result[:, :128], result[:, 128:]
    assert mel.max() == 0.0
    assert mel.min() == -30.0
    assert chroma.min() >= 0.0
    np.testing.assert_array_equal(chroma.max(axis=1), 1.0)


@pytest.mark.parametrize("front", [LogMelChroma(), LogMelChroma(tuning=None), LogMelChroma(chroma="cqt"),
                                   LogMelChroma(sync="beat")],
                         ids=changed_parameters)  # fmt: skip
def test_samples_are_not_modified(front: LogMelChroma) -> None:
    audio = decode(ONE_PER_GENRE[0], 22050)[: 3 * 22050]
    before = audio.copy()
    frames(audio, front)
    np.testing.assert_array_equal(audio, before)


def test_frames_do_not_depend_on_previous_clips() -> None:
    """Compute clips in another order, because filter banks are cached and each clip has its own tuning."""
    audio = [decode(path, 22050) for path in SOME_CLIPS[:3]]
    front = LogMelChroma(tuning=None)
    separate = [frames(clip, front) for clip in audio]
    for clip, expected in reversed(list(zip(audio, separate, strict=True))):
        np.testing.assert_array_equal(frames(clip, front), expected)


@pytest.mark.parametrize("shape", [(), (0,), (2, 22050), (22050, 1)])
def test_other_shapes_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"audio must be \(N,\) with N > 0, got \("):
        frames(np.zeros(shape, np.float32), LogMelChroma())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ref", "median", "must be max or one, got 'median'"),
        ("chroma", "cens", "must be stft or cqt, got 'cens'"),
        ("sync", "bar", "feature.sync must be none or beat, got 'bar'"),
        ("rate", 0, "must be greater than 0, got 0"),
        ("n_fft", -2048, "must be greater than 0, got -2048"),
        ("hop_length", 0, "must be greater than 0, got 0"),
        ("n_mels", 0, "must be greater than 0, got 0"),
        ("n_chroma", 0, "must be greater than 0, got 0"),
        ("top_db", 0.0, "must be greater than 0, got 0"),
        ("fmin", -1.0, "fmin -1 Hz and fmax 11025 Hz must satisfy 0 <= fmin"),
        (
            "fmin",
            11025.0,
            "fmin 11025 Hz and fmax 11025 Hz must satisfy 0 <= fmin < fmax <= rate / 2, which is 11025 Hz",
        ),
        ("fmax", 11026.0, "fmax 11026 Hz must satisfy 0 <= fmin < fmax <= rate / 2, which is 11025 Hz"),
        ("fmax", 0.0, "fmax 0 Hz must satisfy 0 <= fmin"),
    ],
)
def test_invalid_value_raises_with_its_name(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^feature\..*{key}") as error:
        LogMelChroma(**{key: value})
    assert message in str(error.value)


@pytest.mark.parametrize(
    "front",
    [LogMelChroma(chroma="cqt", rate=8000), LogMelChroma(chroma="cqt", rate=6000, n_fft=512)],
    ids=changed_parameters,
)
def test_incompatible_constant_q_raises(front: LogMelChroma) -> None:
    with pytest.raises(UserError, match=r"^feature\.front\.chroma=cqt is not compatible with the other parameters: "):
        frames(decode(ONE_PER_GENRE[0], front.rate), front)


def test_front_end_is_restored_from_plain_values() -> None:
    front = LogMelChroma(rate=16000, tuning=None, chroma="cqt", sync="beat")
    plain = json.loads(json.dumps(front.to_dict()))
    assert make(plain) == front
    assert make({**plain, "rate": 22050}) != front


@pytest.mark.parametrize(
    "front", [LogMelChroma(), *FRONTS, LogMelChroma(sync="beat"), LogMelChroma(chroma="cqt")], ids=changed_parameters
)
def test_view_equals_columns_of_the_frames(front: LogMelChroma) -> None:
    audio = decode(ONE_PER_GENRE[0], front.rate)
    complete = frames(audio, front)
    for columns in ((0, front.n_mels), (3, 20), (front.n_mels, front.bins), (0, front.bins)):
        np.testing.assert_allclose(front.view(audio, columns), complete[:, slice(*columns)], rtol=0, atol=1e-4)


TUNED = sorted((HOME / "clips").glob("*/*.ogg"))[::14]
SETTINGS = [(22050, 2048, 12), (16000, 1024, 12), (44100, 4096, 24), (48000, 2000, 36), (8000, 2048, 12)]


def librosa_power(audio: np.ndarray, n_fft: int) -> np.ndarray:
    return (np.abs(librosa.stft(audio, n_fft=n_fft, hop_length=512)) ** 2).T


def librosa_tuning(power: np.ndarray, rate: int, n_chroma: int) -> float:
    return librosa.estimate_tuning(S=power.T, sr=rate, n_fft=2 * (power.shape[1] - 1), bins_per_octave=n_chroma)


def estimated_tuning(audio: np.ndarray, rate: int, n_fft: int, n_chroma: int) -> float:
    return estimate_tuning(power_spectrum(audio, LogMelChroma(rate, n_fft)).numpy(), rate, n_chroma)


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_estimated_tuning_equals_librosa(path: Path) -> None:
    audio = decode(path, 22050)
    assert estimated_tuning(audio, *SETTINGS[0]) == librosa_tuning(librosa_power(audio, 2048), 22050, 12)


def test_clips_have_different_tunings() -> None:
    """Check that the test above is not trivial."""
    assert len({estimated_tuning(decode(path, 22050), *SETTINGS[0]) for path in TUNED}) > 5


@pytest.mark.parametrize(("rate", "n_fft", "n_chroma"), SETTINGS)
def test_estimated_tuning_equals_librosa_with_other_settings(rate: int, n_fft: int, n_chroma: int) -> None:
    for path in TUNED[::6]:
        audio = decode(path, rate)
        assert estimated_tuning(audio, rate, n_fft, n_chroma) == librosa_tuning(
            librosa_power(audio, n_fft), rate, n_chroma
        )


@pytest.mark.parametrize("deviation", [-0.45, -0.2, 0.0, 0.1, 0.3])
def test_estimated_tuning_of_a_detuned_chord(deviation: float) -> None:
    """Compare with the definition of a semitone, without librosa."""
    time = np.arange(22050 * 2) / 22050
    pitches = 440.0 * 2 ** ((np.array([0, 4, 7, 12]) + deviation) / 12)
    audio = np.sin(2 * np.pi * pitches[:, None] * time).sum(0).astype(np.float32) / 4
    assert estimated_tuning(audio, 22050, 4096, 12) == pytest.approx(deviation, abs=0.031)  # bins are 5.4 Hz wide


@pytest.mark.filterwarnings("ignore:Trying to estimate tuning from empty")
@pytest.mark.parametrize("kind", ["silence", "noise", "low hum", "a click", "100 samples"])
def test_estimated_tuning_of_clips_without_pitch_equals_librosa(kind: str) -> None:
    """Compare on the same spectrum, because the peaks of noise depend on its last digits."""
    rng = np.random.default_rng(0)
    audio = {
        "silence": np.zeros(22050),
        "noise": rng.standard_normal(22050),
        "low hum": np.sin(2 * np.pi * 50 * np.arange(22050) / 22050),
        "a click": np.eye(1, 22050, 11000)[0],
        "100 samples": rng.standard_normal(100),
    }[kind].astype(np.float32)
    power = power_spectrum(audio, LogMelChroma()).numpy()
    expected = librosa_tuning(power, 22050, 12)
    assert estimate_tuning(power, 22050) == expected
    if kind == "silence":
        assert expected == 0.0


@pytest.mark.filterwarnings("ignore:n_fft=")
@pytest.mark.parametrize("count", [1, 255, 256, 40_000, 160_000])
@pytest.mark.parametrize("path", ONE_PER_GENRE, ids=lambda path: path.parent.name)
def test_musicnn_frames_equal_librosa(path: Path, count: int) -> None:
    audio = decode(path, 16000)[:count]
    mel = librosa.feature.melspectrogram(y=audio, sr=16000, n_fft=512, hop_length=256, n_mels=96)
    result = MusicnnFront().frames(audio)
    assert result.dtype == np.float32 and result.shape == (1 + count // 256, 96)
    np.testing.assert_allclose(result, np.log10(10_000 * mel.T + 1), atol=2e-5)


def test_musicnn_frames_of_silence_are_zero() -> None:
    assert not MusicnnFront().frames(np.zeros(5000, np.float32)).any()


def test_musicnn_front_end_is_restored_from_plain_values() -> None:
    assert make(MusicnnFront(n_mels=64).to_dict()) == MusicnnFront(n_mels=64)
    with pytest.raises(UserError, match=r"feature\.sync=beat: MusicnnFront supports only feature\.sync=none"):
        MusicnnFront(sync="beat")
