"""Clips to inspect, from the data of a run or from audio files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from etude.audio.formats import DecodeError
from etude.audio.frontend import FrontEnd
from etude.config import instantiate
from etude.data.datamodule import MusicData, build_datamodule
from etude.errors import UserError
from etude.files.safe_read import read_checkpoint
from etude.reports import clip_frames
from etude.runs.folder import RunFolder
from etude.training.network import load_network

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack
    from etude.training.network import Network


log = logging.getLogger(__name__)
# length of the default crop; memory and time grow with the square of the number of frames
DEFAULT_SECONDS, DEFAULT_BEATS = 10.0, 60.0


@dataclass(frozen=True)
class Clip:
    """Clip to inspect.

    Args:
        id: Id of the clip, or name of its file.
        x: Frames from the front end (1, T, F), float32, with only the columns that the network uses.
        y: True value of each target (1,), -1 or NaN if it is missing.
        details: Names and values of known properties, such as the group.
        start: Time of the first frame, in seconds or beats.
        note: How the clip was chosen or cropped, or an empty string.
    """

    id: str
    x: Tensor
    y: dict[str, Tensor]
    details: list[tuple[str, Any]]
    start: float = 0.0
    note: str = ""


def worst_error(test: pd.DataFrame, network: Network) -> tuple[int, str]:
    """Find the most confident error in the first target.

    Args:
        test: Rows of the predictions table.
        network: Network with the targets.

    Returns:
        Row of the clip, and a sentence that explains the choice.
    """
    name, target = next(iter(network.task.targets.items()))
    true, predicted = test[f"{name}.true"], test[f"{name}.pred"]
    labelled = true.notna().to_numpy()
    if target.kind == "scalar":
        errors = np.where(labelled, np.abs(predicted.to_numpy(float) - true.to_numpy(float)), -1.0)
        return int(errors.argmax()), f"No clip was named. This is the test clip with the largest error in {name}."
    classes = [column for column in test if str(column).startswith(f"{name}.score.")]
    confidence = test[classes].to_numpy(float).max(1)
    wrong = labelled & (predicted.to_numpy() != true.to_numpy())
    if not wrong.any():
        return int(confidence.argmin()), (
            f"No clip was named, and every {name} of the test split is correct. This is the least confident prediction."
        )
    row = int(np.where(wrong, confidence, -1.0).argmax())
    return row, f"No clip was named. This is the most confident error in {name} of the test split."


def crop_clip(clip: Clip, run: InspectedRun, crop: tuple[float, float] | None) -> Clip:
    """Crop a clip in time.

    Args:
        clip: The clip.
        run: Run whose front end computed the frames.
        crop: Start and end in seconds (or beats). None returns the complete clip, or of a longer clip the middle
            DEFAULT_SECONDS (or DEFAULT_BEATS).

    Raises:
        UserError: The clip ends before the crop starts.
    """
    rate, n_frames = run.frames_per_second, clip.x.shape[1]
    unit = "beats" if run.front.sync == "beat" else "seconds"
    cropped = ""
    if crop is None:
        length = (DEFAULT_BEATS if run.front.sync == "beat" else DEFAULT_SECONDS) * rate
        if not run.front.reads_sound or n_frames <= round(length):
            return clip
        crop = (n_frames - length) / 2 / rate, (n_frames + length) / 2 / rate
        cropped = (
            f" The predictions of the complete clip can differ; --crop {math.ceil(round(n_frames / rate, 1))} shows it."
        )
    start, end = round(crop[0] * rate), min(round(crop[1] * rate), n_frames)
    if start >= end:
        raise UserError(
            f"--crop {crop[0]:g}-{crop[1]:g}: clip {clip.id} has only {n_frames / rate:.1f} {unit}; "
            "set a crop that starts before the end of the clip"
        )
    shown = f"Shown are {start / rate:.1f} to {end / rate:.1f} of {n_frames / rate:.1f} {unit}.{cropped}"
    log.info("%s: %s", clip.id, shown)
    note = f"{clip.note} {shown}"
    return replace(clip, x=clip.x[:, start:end], start=start / rate, note=note.strip())


def encode_targets(entry: Any, network: Network) -> dict[str, Tensor]:
    """Return the true value of each target (1,), -1 or NaN if it is missing.

    Args:
        entry: Mapping from names to values, such as a row of the table of clips.
        network: Network with the targets.
    """
    import pandas as pd

    y = {}
    for name, target in network.task.targets.items():
        value = entry.get(name)
        known = value is not None and not pd.isna(value)
        if target.kind == "label":
            index = target.classes.index(value) if known and value in target.classes else -1
            y[name] = torch.tensor([index])
        else:
            y[name] = torch.tensor([float(value) if known else float("nan")])
    return y


def decode_targets(y: Mapping[str, Tensor], network: Network) -> dict[str, Any]:
    """Return the true class or value of each target, None if it is missing."""
    values = {}
    for name, target in network.task.targets.items():
        value = y[name][0].item()
        decoded = target.classes[int(value)] if target.kind == "label" else value
        values[name] = decoded if bool(target.has_label(y[name])[0]) else None
    return values


class InspectedRun:
    """Run folder with its network and data.

    Args:
        folder: Path of the run folder.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Attributes:
        network: Network in evaluation mode.
        front: Front end of its frames.
        epoch: Number of epochs after which the checkpoint was written.

    Raises:
        UserError: The folder is not a run folder, or one of its files cannot be read.
    """

    def __init__(self, folder: Path, checkpoint: str = "best") -> None:
        self.folder = folder
        self.files = RunFolder(folder)
        if not self.files.config_path.is_file():
            raise UserError(
                f"{folder}: is not a run folder, because it has no {self.files.config_path.name}; name a run folder"
            )
        checkpoints = {"best": self.files.best_path, "last": self.files.last_path}
        self.path = checkpoints.get(checkpoint, Path(checkpoint))
        if not self.path.is_file():
            raise UserError(f"{self.path}: checkpoint does not exist; name another with --checkpoint <file>")
        self.network: Network = load_network(self.path)
        self.epoch = int(read_checkpoint(self.path).get("epoch", -1)) + 1
        self.front: FrontEnd = instantiate.make(self.network.recipe["front"])
        self.columns = slice(*self.network.recipe["columns"])
        self._pack: Pack | None = None

    @property
    def frames_per_second(self) -> float:
        """Number of frames per second, or per beat."""
        return 1.0 if self.front.sync == "beat" else self.front.frames_per_second

    @property
    def pack(self) -> Pack:
        """Pack of the run's data, which is created if it does not exist."""
        if self._pack is None:
            self._pack = self.data.open_pack()
        return self._pack

    @cached_property
    def data(self) -> MusicData:
        """Data module of the run, without setup."""
        return build_datamodule(self.config)

    @property
    def config(self) -> dict[str, Any]:
        """Config of the run."""
        config = self.files.config
        if not {"data", "feature"} <= set(config):
            raise UserError(
                f"{self.files.config_path}: is not a complete run config, because section "
                "data or feature is missing; restore the file"
            )
        # only these sections are instantiated; a check of the others would import Lightning
        instantiate.check_trusted({key: config[key] for key in ("data", "feature")})
        return config | {"seed": config.get("seed", 0)}

    def predictions(self) -> pd.DataFrame | None:
        """Return the predictions table, or None if the run has not written one."""
        return self.files.predictions if self.files.predictions_path.is_file() else None

    def find_clips(self, names: list[str]) -> list[Clip]:
        """Return clips by id or audio file. Without names, return the most confident error of the test split.

        Raises:
            UserError: A clip does not exist. The message lists similar ids.
        """
        if not names:
            return [self.default_clip()]
        clips = []
        for name in names:
            if Path(name).is_file():
                clips.append(self.clip_from_file(Path(name)))
            else:
                clips += [
                    self.clip_from_pack(row) for row in clip_frames.named_clips(name, self.pack.index, {}, "--clip")
                ]
        return clips

    def clip_from_pack(self, row: int, note: str = "") -> Clip:
        """Return a clip of the run's data."""
        import pandas as pd

        entry = self.pack.index.iloc[row]
        x = torch.from_numpy(np.asarray(self.pack.clip(row)[:, self.columns], np.float32))[None]
        names = [name for name in (*self.network.task.targets, "group", "artist", "title") if name in entry]
        details = [(name, entry[name]) for name in names if not pd.isna(entry[name])]
        clip = str(entry["id"])
        if split := self.files.split.get(clip):
            details.append(("split", split))
        return Clip(clip, x, encode_targets(entry, self.network), details, 0.0, note)

    def clip_from_file(self, path: Path) -> Clip:
        """Return the frames of an audio file, without true values.

        Raises:
            UserError: The file cannot be decoded, or the network has no audio input.
        """
        from etude.data.audio_files import read_sound

        if not self.front.reads_sound:
            raise UserError(
                f"--clip {path}: the input of this network is images, not audio files; give a clip of its data"
            )
        try:
            frames = read_sound(path, self.front)[:, self.columns]
        except DecodeError as error:
            raise UserError(f"--clip {error}") from error
        return Clip(
            path.name, torch.from_numpy(np.ascontiguousarray(frames))[None], encode_targets({}, self.network), []
        )

    def default_clip(self) -> Clip:
        """Return the most confident error of the test split."""
        table = self.predictions()
        test = None if table is None else table[table["split"] == "test"]
        if test is None or test.empty:
            name = self.files.predictions_path.name
            raise UserError(f"{self.folder}: has no test predictions in {name}; give a clip with --clip <id>")
        index, note = worst_error(test, self.network)
        rows = {str(clip): row for row, clip in enumerate(self.pack.index["id"])}
        if (clip := str(test["id"].iloc[index])) not in rows:
            raise UserError(
                f"{self.folder}: clip {clip} of the predictions is not in the data; name another with --clip <id>"
            )
        return self.clip_from_pack(rows[clip], note)
