"""Fixtures with an untrained network and with audio files from the embedded clips."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from etude.audio.decode import decode
from etude.config import instantiate
from etude.data.collection import label_target, scalar_target
from etude.inference.model import Model
from etude.training.build import RECIPE_GROUPS, build_from_recipe

UNUSUAL_NAME = '<img src=x onerror=alert(1)> & "$x$".ogg'
TARGETS = {"genre": label_target(["<b>loud", "quiet", "soft"]), "energy": scalar_target(), "valence": scalar_target()}
EVALUATION = {"frames": 431, "longest": 431, "shortest": 1.0, "crop": None, "crops": None}


def build_recipe(config: Callable[..., dict[str, Any]], evaluation: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """Return the recipe in the checkpoint of a network with a label and two scalars."""
    plain = config("task=multitask", *overrides)
    genre = config("task=genre")["task"]["targets"]
    del plain["task"]["targets"]["danceability"]
    plain["task"]["targets"] = genre | plain["task"]["targets"]
    feature = instantiate.make(plain["feature"])
    return {
        "config": {k: plain.get(k) for k in RECIPE_GROUPS},
        "targets": TARGETS, "bins": feature.bins, "columns": [feature.columns.start, feature.columns.stop],
        "front": feature.front.to_dict(), "evaluation": evaluation,
    }  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(config: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of an LSTM with a label and two scalars for clips of 10 s, without a run folder."""
    recipe = build_recipe(config, EVALUATION, "backbone=lstm", "backbone.hidden=16")
    torch.manual_seed(0)
    network = build_from_recipe(recipe)
    network.standardiser.mean.fill_(-40)
    network.standardiser.std.fill_(15)
    for head in network.task.heads.values():  # so that predictions for the audio files differ
        for weight in head.parameters():
            weight.data.mul_(8 if weight.ndim > 1 else 1)
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    torch.save({"state_dict": network.state_dict(), "etude": recipe, "epoch": 0}, path)
    return path


@pytest.fixture(scope="session")
def model(checkpoint: Path) -> Model:
    """Network of the checkpoint."""
    return Model(checkpoint)


@pytest.fixture(scope="session")
def music(clips: list[Path]) -> np.ndarray:
    """Stereo audio of 98 s at 44.1 kHz (N, 2)."""
    mono = np.concatenate([decode(path, 44100) for path in clips])[: round(97.7 * 44100)]
    return np.stack([mono, 0.5 * mono], axis=1)


@pytest.fixture(scope="session")
def audio_folder(tmp_path_factory: pytest.TempPathFactory, clips: list[Path], music: np.ndarray) -> Path:
    """Folder with two songs, three clips of which one has an unusual name, a broken and a silent file."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for path, name in zip(clips, ("a.ogg", UNUSUAL_NAME, "deep/b.ogg", "deep/.hidden/c.ogg"), strict=False):
        shutil.copy(path, folder / name)
    soundfile.write(folder / "song.flac", music, 44100)
    soundfile.write(folder / "song.mp3", music[: 25 * 44100], 44100)
    (folder / "broken.mp3").write_bytes(b"no sound at all")
    soundfile.write(folder / "silent.wav", np.zeros(44100 * 2), 44100)
    (folder / "notes.md").write_text("not an audio file")
    return folder
