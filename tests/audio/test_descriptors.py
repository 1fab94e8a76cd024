"""Tests of descriptors by reference values, invariances, and the order of clear cases."""

import numpy as np
import pytest

from etude.audio.descriptors import brightness, descriptors, k_weighting, loudness, mode, pulse_clarity

pytestmark = pytest.mark.usefixtures("compiled_librosa")
RATE = 22050


def sine(frequency: float, rate: int, seconds: float = 4.0, amplitude: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def chord(root: int, degrees: tuple[int, ...], seconds: float = 4.0) -> np.ndarray:
    """Return notes with three harmonics, for a root as MIDI number and degrees relative to it."""
    notes = [440 * 2 ** ((root + degree - 69) / 12) for degree in degrees]
    return sum(sine(f * h, RATE, seconds, 0.1 / h) for f in notes for h in (1, 2, 3))


def clicks(bpm: float, seconds: float = 8.0) -> np.ndarray:
    audio = np.zeros(round(seconds * RATE))
    for start in np.arange(0, seconds - 0.1, 60 / bpm):
        audio[int(start * RATE) :][:200] = np.hanning(200)
    return audio


def noise(seconds: float = 8.0) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE))


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    """Return a chord progression with a beat and a peak well below 1."""
    bars = np.concatenate([chord(60, d, 2.0) for d in ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7))])
    audio = bars + 0.5 * clicks(120)
    return (0.3 * audio / np.abs(audio).max()).astype(np.float32)


def test_k_weighting_equals_the_standard() -> None:
    """ITU-R BS.1770-4, Tables 1 and 2, for 48 kHz."""
    (shelf_b, shelf_a), (high_b, high_a) = k_weighting(48000)
    np.testing.assert_allclose(shelf_b, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-8)
    np.testing.assert_allclose(shelf_a, [1.0, -1.69065929318241, 0.73248077421585], atol=1e-8)
    np.testing.assert_allclose(high_b, [1.0, -2.0, 1.0], atol=1e-8)
    np.testing.assert_allclose(high_a, [1.0, -1.99004745483398, 0.99007225036621], atol=1e-8)


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 96000])
def test_full_scale_sine_is_minus_3_lufs(rate: int) -> None:
    assert loudness(sine(997, rate), rate) == pytest.approx(-3.01, abs=0.1)


def test_k_weighting_attenuates_bass_and_amplifies_treble() -> None:
    """K-weighting at 48 kHz is about -13 dB at 20 Hz and +4 dB at 10 kHz."""
    middle = loudness(sine(997, 48000), 48000)
    assert loudness(sine(20, 48000), 48000) - middle == pytest.approx(-14.0, abs=1.0)
    assert loudness(sine(10_000, 48000), 48000) - middle == pytest.approx(3.3, abs=0.3)


def test_pauses_do_not_change_loudness() -> None:
    """Append silence or a level of -30 dB, each of which would lower the result by about 3 LU without gates."""
    loud = sine(997, RATE, 20)
    for factor in (0.0, 10 ** (-30 / 20)):
        gated = loudness(np.concatenate([loud, factor * loud]), RATE)
        assert gated == pytest.approx(-3.01, abs=0.1)
    kept = loudness(np.concatenate([loud, 10 ** (-6 / 20) * loud]), RATE)  # a section that is 6 LU lower is not a pause
    assert kept == pytest.approx(-3.01 + 10 * np.log10((1 + 10**-0.6) / 2), abs=0.1)


def test_gain_changes_only_loudness(music: np.ndarray) -> None:
    louder = music * np.float32(10 ** (6 / 20))
    assert loudness(louder, RATE) - loudness(music, RATE) == pytest.approx(6.0, abs=0.01)
    for descriptor in (pulse_clarity, brightness, mode):
        assert descriptor(louder, RATE) == pytest.approx(descriptor(music, RATE), abs=1e-4)


def test_levels_below_the_absolute_gate_are_silence() -> None:
    assert loudness(sine(997, RATE, amplitude=10 ** (-66 / 20)), RATE) == pytest.approx(-69.0, abs=0.1)
    assert loudness(sine(997, RATE, amplitude=10 ** (-68 / 20)), RATE) == -np.inf


def test_descriptors_of_very_quiet_music_are_unchanged(music: np.ndarray) -> None:
    for descriptor in (pulse_clarity, brightness, mode):
        assert descriptor(1e-5 * music, RATE) == pytest.approx(descriptor(music, RATE), abs=1e-4)


def test_clicks_have_a_clearer_pulse_than_noise() -> None:
    for bpm in (50, 90, 130, 180):
        assert pulse_clarity(clicks(bpm) + 1e-4 * noise(), RATE) > 0.8
    assert pulse_clarity(noise(), RATE) < 0.4


def test_irregular_clicks_have_a_weaker_pulse_than_regular_ones() -> None:
    rng, audio = np.random.default_rng(1), np.zeros(8 * RATE)
    for start in np.sort(rng.uniform(0, 7.9, 16)):
        audio[int(start * RATE) :][:200] = np.hanning(200)
    assert pulse_clarity(audio, RATE) < pulse_clarity(clicks(120), RATE) - 0.3


def test_mode_of_major_triads_is_higher_than_of_minor_triads() -> None:
    for root in range(48, 60, 3):
        major, minor = mode(chord(root, (0, 4, 7)), RATE), mode(chord(root, (0, 3, 7)), RATE)
        assert minor < 0 < major
        assert major - minor > 0.2


def test_brightness_increases_by_one_per_octave() -> None:
    low = brightness(sine(500, RATE, amplitude=0.5), RATE)
    assert low == pytest.approx(np.log2(500), abs=0.1)
    assert brightness(sine(1000, RATE, amplitude=0.5), RATE) - low == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["loudness", "pulse_clarity", "brightness", "mode"])
def test_sample_rate_has_little_influence(music: np.ndarray, name: str) -> None:
    import soxr

    descriptor = {"loudness": loudness, "pulse_clarity": pulse_clarity, "brightness": brightness, "mode": mode}[name]
    higher = descriptor(soxr.resample(music, RATE, 48000), 48000)
    assert higher == pytest.approx(descriptor(music, RATE), abs=0.1)


def test_values_are_in_range_and_have_names(music: np.ndarray) -> None:
    values = descriptors(music, RATE)
    assert list(values) == ["valence", "energy", "danceability"]
    assert all(0 < value < 1 for value in values.values())


def test_extreme_values_are_clipped() -> None:
    values = descriptors(100 * noise(), RATE)
    assert values["energy"] == 1.0


def test_silence_has_zero_energy_and_no_other_values() -> None:
    values = descriptors(np.zeros(4 * RATE, dtype=np.float32), RATE)
    assert values["energy"] == 0.0
    assert np.isnan(values["valence"])
    assert np.isnan(values["danceability"])


@pytest.mark.parametrize("audio", [np.zeros((2, 8 * RATE)), np.zeros(RATE), np.full(8 * RATE, np.nan)])
def test_unusable_audio_raises(audio: np.ndarray) -> None:
    with pytest.raises(ValueError, match="audio"):
        descriptors(audio, RATE)
