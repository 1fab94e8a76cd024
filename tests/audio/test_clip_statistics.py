"""Tests of the detection of samples that are not music."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from etude.audio.clip_statistics import SoundStatistics, SuspectSoundWarning
from etude.audio.decode import stream
from etude.audio.frontend import FrontEnd
from etude.audio.kaldi import ASTFront, EfficientATFront
from etude.audio.log_mel import LogMelChroma, MusicnnFront
from etude.data.audio_files import read_sound
from etude.data.sources.demo import HOME

RATE = 22050
PAGE = b"<html><head><title>404 Not Found</title></head><body><p>There is no such page.</p></body></html>\n"


def findings(audio: np.ndarray, block: int = 1 << 20) -> list[str]:
    statistics = SoundStatistics()
    for start in range(0, len(audio), block):
        statistics.add(audio[start : start + block].astype(np.float32))
    return statistics.findings()


def write_au(path: Path, encoding: int, content: bytes) -> Path:
    """Write bytes after the header of an AU file, whose encoding is 1 (mu-law), 2 (8 bits) or 3 (16 bits)."""
    header = (24, 0xFFFFFFFF, encoding, RATE, 1)
    path.write_bytes(b".snd" + b"".join(number.to_bytes(4, "big") for number in header) + content)
    return path


@pytest.mark.parametrize("encoding", [1, 2, 3])
def test_other_bytes_are_detected(encoding: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0).bytes(100_000)
    for content, message in ((random, "is white noise near full scale"), (PAGE * 1000, "on one side of zero")):
        with pytest.warns(SuspectSoundWarning, match=message):
            read_sound(write_au(tmp_path / "a.au", encoding, content), LogMelChroma())


def test_unusual_levels_are_detected() -> None:
    t = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 440 * t)
    for audio, message in (
        (np.full(RATE, 0.5), "contains only the constant value 0.5"),
        (32768 * tone, r"reaches 3.28e+04 times full scale"),
        (1e-3 * tone * 0.9, "is almost silent: its peak is -61 dB of full scale"),
        (np.sign(tone), "of its samples at full scale"),
    ):
        for block in (1 << 20, 999, 3):
            (finding,) = findings(audio, block)
            assert message in finding
    assert findings(np.empty(0)) == []


def test_music_is_not_suspicious() -> None:
    clips = sorted(HOME.glob("clips/*/*.ogg"))
    loud = [clip for clip in clips if "Enemy-Unknown" in clip.name]  # a quarter of it is clipped
    for clip in [*clips[::15], *loud]:
        statistics = SoundStatistics()
        list(stream(clip, RATE, None, statistics))
        assert statistics.findings() == []
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.3, 2 * RATE)
    assert findings(0.3 * noise) == []
    assert findings(np.convolve(noise, [0.25, 0.5, 0.25])) == []  # filtered, as every recording is
    assert findings(0.1 + np.convolve(noise, [0.25, 0.5, 0.25])) == []  # with an offset


FRONTS: dict[str, FrontEnd] = {
    "mel": LogMelChroma(),
    "absolute": LogMelChroma(ref="one"),
    "tuned": LogMelChroma(tuning=None),
    "beat": LogMelChroma(sync="beat"),
    "ast": ASTFront(),
    "efficientat": EfficientATFront(),
    "musicnn": MusicnnFront(),
}


def write_unusual_file(name: str, path: Path) -> Path:
    """Write one of the unusual files by name."""
    t = np.arange(2 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 220 * t) * (t % 0.5 < 0.25)).astype(np.float32)
    pulse = np.zeros(2 * RATE, np.float32)
    pulse[5000] = 1
    denormal = tone.copy()
    denormal[RATE:] = 1e-40
    audio, options = {
        "constant": (np.full_like(tone, 0.5), {}),
        "scaled": (32768 * tone, {"subtype": "FLOAT"}),
        "scaled constant": (np.full_like(tone, 32768), {"subtype": "FLOAT"}),
        "large": (1e10 * tone, {"subtype": "FLOAT"}),
        "64 channels": (np.repeat(tone[:, None], 64, 1), {}),
        "one sample": (tone[5:6], {"subtype": "FLOAT"}),
        "two samples": (tone[5:7], {"subtype": "FLOAT"}),
        "RIFX": (tone, {"endian": "BIG"}),
        "RF64": (tone, {"format": "RF64"}),
        "W64": (tone, {"format": "W64"}),
        "CAF": (tone, {"format": "CAF"}),
        "24 bits extensible": (tone, {"format": "WAVEX", "subtype": "PCM_24"}),
        "mu-law": (tone, {"subtype": "ULAW"}),
        "IMA ADPCM": (tone, {"subtype": "IMA_ADPCM"}),
        "MS ADPCM": (tone, {"subtype": "MS_ADPCM"}),
        "denormals": (denormal, {"subtype": "FLOAT"}),
        "pulse": (pulse, {}),
    }[name]
    soundfile.write(path, audio, RATE, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.filterwarnings("ignore::etude.audio.clip_statistics.SuspectSoundWarning")
@pytest.mark.parametrize(
    "name",
    [
        *("constant", "scaled", "scaled constant", "large", "64 channels", "one sample", "two samples", "RIFX", "RF64"),
        *("W64", "CAF", "24 bits extensible", "mu-law", "IMA ADPCM", "MS ADPCM", "denormals", "pulse"),
    ],
)
def test_frames_of_unusual_files_are_finite(name: str, tmp_path: Path) -> None:
    path = write_unusual_file(name, tmp_path / "a.wav")
    for front in FRONTS.values():
        frames = read_sound(path, front)
        assert len(frames) and np.isfinite(frames.astype(np.float16)).all()


@pytest.mark.parametrize("name", ["constant", "scaled", "one sample", "denormals"])
@pytest.mark.filterwarnings("ignore")
def test_constant_q_frames_of_unusual_files_are_finite(name: str, tmp_path: Path) -> None:
    for front in (LogMelChroma(chroma="cqt", tuning=None), LogMelChroma(chroma="cqt", tuning=None, sync="beat")):
        assert np.isfinite(read_sound(write_unusual_file(name, tmp_path / "a.wav"), front)).all()
