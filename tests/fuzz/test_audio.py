"""Fuzz test of damaged audio files in the reader, `prepare` and `predict`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.commands import predict, prepare
from tests.fuzz.harness import assert_no_violations, find_violations, open_sandbox, seed_chunks
from tests.fuzz.mutations import damage

from etude.audio.formats import DecodeError
from etude.config import instantiate
from etude.data.audio_files import read_sound
from etude.errors import UserError

DEFAULT_SEEDS = 30  # number of seeds in the default suite, of which only the last two run a command
SUFFIXES = (
    "wav",
    "flac",
    "ogg",
    "mp3",
    "aif",
    "aiff",
    "au",
    "caf",
    "w64",
    "opus",
    "m4a",
    "aifc",
    "oga",
    "wv",
    "WAV",
    "webm",
)
FORMATS = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "PCM_24"), ("wav", "WAV", "ULAW"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "MS_ADPCM"), ("wav", "WAVEX", "PCM_24"), ("wav", "WAV", "DOUBLE"), ("flac", "FLAC", "PCM_16"),
    ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"), ("aiff", "AIFF", "FLOAT"), ("au", "AU", "PCM_16"), ("au", "AU", "FLOAT"),
    ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"), ("w64", "W64", "PCM_16"), ("wav", "RF64", "PCM_16"),
)  # fmt: skip
FEATURES = ("mel", "chroma", "fused", "image", "audioset", "efficientat", "musicnn")


@pytest.fixture(scope="session")
def audio_files(clip: Path) -> list[tuple[str, bytes]]:
    """Return suffix and content of a short audio file in every format."""
    rng = np.random.default_rng(0)
    audio = (0.4 * np.sin(np.arange(66150) * 2 * np.pi * 330 / 22050) + 0.05 * rng.normal(size=66150)).astype(
        np.float32
    )
    files = [("ogg", clip.read_bytes())]
    for suffix, kind, subtype in FORMATS:
        if soundfile.check_format(kind, subtype):
            file = io.BytesIO()
            stereo = np.stack([audio, audio[::-1]], 1) if kind in ("FLAC", "OGG", "MP3", "WAVEX") else audio
            soundfile.write(file, stereo, 48000 if subtype == "OPUS" else 22050, subtype, format=kind)
            files.append((suffix, file.getvalue()))
    return files


@pytest.fixture(scope="session")
def fronts(config: Any) -> list[Any]:
    """Return front ends of different kinds."""
    return [instantiate.make(config(f"feature={name}")["feature"]).front for name in FEATURES] + [
        instantiate.make(config("feature=mel", "feature.sync=beat")["feature"]).front
    ]


def damaged_file(rng: Random, audio_files: Sequence[tuple[str, bytes]]) -> tuple[str, bytes, str]:
    """Return suffix and content of a damaged audio file, and a description of the damage."""
    (suffix, data), (_, other) = rng.choice(audio_files), rng.choice(audio_files)
    data, description = damage(data, rng, other)
    if rng.random() < 0.2:
        return rng.choice(SUFFIXES), data, f"{suffix} under another suffix, {description}"
    return suffix, data, f"{suffix} {description}"


def read_frames(path: Path, front: Any) -> int:
    """Read the frames of a file as `prepare` does, and check their shape and values."""
    try:
        frames = read_sound(path, front, 0.0)
    except DecodeError as error:
        raise UserError(str(error)) from error
    assert frames.ndim == 2 and len(frames) > 0 and frames.shape[1] == front.bins, frames.shape
    assert np.isfinite(frames).all(), "frames that are not finite"
    return 0


def check_seed(
    seed: int, audio_files: Sequence[tuple[str, bytes]], fronts: Sequence[Any], run: Path, top: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, list[str]]:  # fmt: skip
    """Check the reader with one file, or a command with a folder of files.

    Returns:
        Description of the input, and its violations.
    """
    rng = Random(f"audio {seed}")
    with open_sandbox(monkeypatch, top) as sandbox:
        inputs, outputs = sandbox.work / "inputs", sandbox.work / "outputs"
        kind = rng.random()
        if (seed >= DEFAULT_SEEDS and kind < 0.12) or seed == DEFAULT_SEEDS - 1:
            description = "prepare with " + _write_files(inputs, rng, audio_files)
            feature = rng.choice(("mel", "chroma", "fused"))
            options = [
                "data=folder",
                "data.source.path=inputs",
                "--workers=1",
                f"feature={feature}",
                "data.packs=outputs",
                "data.max_skipped=1",
            ]
            return description, find_violations(sandbox, lambda: prepare(options), [outputs])
        if (seed >= DEFAULT_SEEDS and kind < 0.24) or seed == DEFAULT_SEEDS - 2:
            description = "predict with " + _write_files(inputs, rng, audio_files)
            options = [str(run), "inputs", "--out=outputs", "--workers=1", rng.choice(("--page", "--no-page"))]
            return description, find_violations(sandbox, lambda: predict(options), [outputs])
        inputs.mkdir()
        suffix, data, description = damaged_file(rng, audio_files)
        path = inputs / f"a.{suffix}"
        path.write_bytes(data)
        index = rng.choices(range(len(fronts)), (8, *[2] * (len(fronts) - 2), 1))[0]
        violations = find_violations(sandbox, lambda: read_frames(path, fronts[index]))
        return f"{description}, front end {index}", violations


def _write_files(folder: Path, rng: Random, audio_files: Sequence[tuple[str, bytes]]) -> str:
    """Write two valid and two damaged audio files into folders of two classes, and return a description."""
    descriptions = []
    for k in range(4):
        (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        suffix, data, text = damaged_file(rng, audio_files) if k > 1 else (*rng.choice(audio_files), "valid")
        (folder / "ab"[k % 2] / f"{k}.{suffix}").write_bytes(data)
        descriptions.append(text)
    return "; ".join(descriptions)


@pytest.mark.parametrize("chunk", seed_chunks(default=DEFAULT_SEEDS, full=600))
def test_damaged_audio_gives_frames_or_a_message(
    chunk: Sequence[int], audio_files: list[tuple[str, bytes]], fronts: list[Any], tiny_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    results = {
        seed: check_seed(seed, audio_files, fronts, tiny_run, tmp_path / str(seed), monkeypatch) for seed in chunk
    }
    assert_no_violations("audio", results)
