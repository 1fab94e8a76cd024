"""Damaged sound files of every format, through the reader, `prepare` and `predict`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.fuzz.harness import assert_none, faults, room, seeds
from tests.fuzz.mutate import damage

from etude.audio.formats import DecodeError
from etude.cli import predict, prepare
from etude.config import instantiate
from etude.data.readers import read_sound
from etude.errors import UserError

DAILY = 30  # seeds of the default suite, of which few go through a whole command
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
KINDS = (
    ("wav", "WAV", "PCM_16"), ("wav", "WAV", "FLOAT"), ("wav", "WAV", "PCM_24"), ("wav", "WAV", "ULAW"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAV", "MS_ADPCM"), ("wav", "WAVEX", "PCM_24"), ("wav", "WAV", "DOUBLE"), ("flac", "FLAC", "PCM_16"),
    ("flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"), ("aiff", "AIFF", "FLOAT"), ("au", "AU", "PCM_16"), ("au", "AU", "FLOAT"),
    ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"), ("w64", "W64", "PCM_16"), ("wav", "RF64", "PCM_16"),
)  # fmt: skip
FRONTS = ("mel", "chroma", "fused", "image", "audioset", "efficientat")


@pytest.fixture(scope="session")
def sounds(clip: Path) -> list[tuple[str, bytes]]:
    """One short sound in every format, with its suffix."""
    rng = np.random.default_rng(0)
    audio = (0.4 * np.sin(np.arange(66150) * 2 * np.pi * 330 / 22050) + 0.05 * rng.normal(size=66150)).astype(
        np.float32
    )
    made = [("ogg", clip.read_bytes())]
    for suffix, kind, subtype in KINDS:
        if soundfile.check_format(kind, subtype):
            file = io.BytesIO()
            stereo = np.stack([audio, audio[::-1]], 1) if kind in ("FLAC", "OGG", "MP3", "WAVEX") else audio
            soundfile.write(file, stereo, 48000 if subtype == "OPUS" else 22050, subtype, format=kind)
            made.append((suffix, file.getvalue()))
    return made


@pytest.fixture(scope="session")
def fronts(config: Any) -> list[Any]:
    """Front ends of different kinds."""
    return [instantiate.make(config(f"feature={name}")["feature"]).front for name in FRONTS] + [
        instantiate.make(config("feature=mel", "feature.sync=beat")["feature"]).front
    ]


def spoiled(rng: Random, sounds: Sequence[tuple[str, bytes]]) -> tuple[str, bytes, str]:
    """Return a suffix, the bytes of a file with faults in them, and what was done."""
    (suffix, data), (_, other) = rng.choice(sounds), rng.choice(sounds)
    data, done = damage(data, rng, other)
    if rng.random() < 0.2:
        return rng.choice(SUFFIXES), data, f"{suffix} under another suffix, {done}"
    return suffix, data, f"{suffix} {done}"


def reads(path: Path, front: Any) -> int:
    """Read a file as a collection does; its frames are sane."""
    try:
        frames = read_sound(path, front, 0.0)
    except DecodeError as error:
        raise UserError(str(error)) from error
    assert frames.ndim == 2 and len(frames) > 0 and frames.shape[1] == front.bins, frames.shape
    assert np.isfinite(frames).all(), "frames that are not finite"
    return 0


def one(
    seed: int, sounds: Sequence[tuple[str, bytes]], fronts: Sequence[Any], run: Path, top: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, list[str]]:  # fmt: skip
    """Try one file, or a folder of them."""
    rng = Random(f"audio {seed}")
    with room(monkeypatch, top) as made:
        kind = rng.random()
        if (seed >= DAILY and kind < 0.12) or seed == DAILY - 1:
            about = "prepare with " + _collection(made.work / "inputs", rng, sounds)
            feature = rng.choice(("mel", "chroma", "fused"))
            words = [
                "source=folder",
                "path=inputs",
                "workers=1",
                f"feature={feature}",
                "data.packs=outputs",
                "data.max_skipped=1",
            ]
            return about, faults(made, lambda: prepare.main(words), [made.work / "outputs"])
        if (seed >= DAILY and kind < 0.24) or seed == DAILY - 2:
            about = "predict with " + _collection(made.work / "inputs", rng, sounds)
            words = [str(run), "inputs", "to=outputs", "workers=1", f"page={rng.choice(('true', 'false'))}"]
            return about, faults(made, lambda: predict.main(words), [made.work / "outputs"])
        (made.work / "inputs").mkdir()
        suffix, data, done = spoiled(rng, sounds)
        path = made.work / "inputs" / f"a.{suffix}"
        path.write_bytes(data)
        number = rng.choices(range(len(fronts)), (8, 2, 2, 2, 2, 2, 1))[0]
        return f"{done}, front {number}", faults(made, lambda: reads(path, fronts[number]))


def _collection(home: Path, rng: Random, sounds: Sequence[tuple[str, bytes]]) -> str:
    """Write a folder of two classes with sound files and damaged ones; returns what was done."""
    every = []
    for k in range(4):
        (home / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        suffix, data, done = spoiled(rng, sounds) if k > 1 else (*rng.choice(sounds), "whole")
        (home / "ab"[k % 2] / f"{k}.{suffix}").write_bytes(data)
        every.append(done)
    return "; ".join(every)


@pytest.mark.parametrize("chunk", seeds(default=DAILY, full=600))
def test_damaged_sound_ends_in_a_sentence(
    chunk: Sequence[int], sounds: list[tuple[str, bytes]], fronts: list[Any], tiny_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    found = {seed: one(seed, sounds, fronts, tiny_run, tmp_path / str(seed), monkeypatch) for seed in chunk}
    assert_none("audio", found)
