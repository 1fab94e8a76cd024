"""Clips to inspect, from a run or from sound files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from etude.audio.frontend import FrontEnd
from etude.config import instantiate
from etude.data.datamodule import MusicData, build_datamodule
from etude.errors import UserError
from etude.files.safe_read import read_checkpoint
from etude.reports import clip_frames
from etude.runs.folder import RunFolder
from etude.training.build import load_learner

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack
    from etude.training.learner import Learner


LONGEST = 60.0  # seconds of a clip that are shown when nothing is said: what follows grows with their square


@dataclass(frozen=True)
class Clip:
    """Frames that are shown.

    Args:
        id: Of the clip, or the name of its file.
        x: Frames as the front end makes them, of the network's view (1, T, F), float32.
        y: True value by target (1,), -1 or NaN where there is none.
        words: What is known about it, as name and value.
        start: Where the first frame is, in seconds or beats.
        note: One sentence about how it was chosen or cut; often empty.
    """

    id: str
    x: Tensor
    y: dict[str, Tensor]
    words: list[tuple[str, Any]]
    start: float = 0.0
    note: str = ""


def most_wrong(test: pd.DataFrame, network: Learner) -> tuple[int, str]:
    """Place in a table of predictions of the most confident error of the first target, and a sentence about it."""
    name, target = next(iter(network.task.targets.items()))
    true, said = test[f"{name}.true"], test[f"{name}.pred"]
    known = true.notna().to_numpy()
    if target.kind == "scalar":
        far = np.where(known, np.abs(said.to_numpy(float) - true.to_numpy(float)), -1.0)
        return int(far.argmax()), f"No clip was named; this is the one of the test part whose {name} is furthest off."
    classes = [column for column in test if str(column).startswith(f"{name}.score.")]
    sure = test[classes].to_numpy(float).max(1)
    wrong = known & (said.to_numpy() != true.to_numpy())
    if not wrong.any():
        return int(sure.argmin()), (
            f"No clip was named, and every {name} of the test part is right; this is the least sure of them."
        )
    place = int(np.where(wrong, sure, -1.0).argmax())
    return place, f"No clip was named; this is the most confident error of the test part in {name}."


def cropped(clip: Clip, run: InspectedRun, crop: tuple[float, float] | None) -> Clip:
    """A part of a clip.

    Args:
        clip: The whole clip.
        run: Knows how many frames are a second.
        crop: First and last second (or beat); none takes all of it, up to a minute.

    Raises:
        UserError: The clip ends before that.
    """
    rate, whole = run.rate, clip.x.shape[1]
    unit = "beats" if run.front.sync == "beat" else "seconds"
    if crop is None:
        if not run.front.reads_sound or whole <= LONGEST * rate:
            return clip
        note = (
            f"{clip.note} The clip is longer; its first {LONGEST:g} {unit} are shown (crop=<from>-<to> shows others)."
        )
        return replace(clip, x=clip.x[:, : round(LONGEST * rate)], note=note.strip())
    first, last = round(crop[0] * rate), min(round(crop[1] * rate), whole)
    if first >= last:
        raise UserError(f"crop={crop[0]:g}-{crop[1]:g}: clip {clip.id} has {whole / rate:.1f} {unit} only")
    note = f"{clip.note} Of {whole / rate:.1f} {unit}, those from {first / rate:.1f} to {last / rate:.1f} are shown."
    return replace(clip, x=clip.x[:, first:last], start=first / rate, note=note.strip())


def truth(about: Any, network: Learner) -> dict[str, Tensor]:
    """True values by target (1,) of a row that may lack some."""
    import pandas as pd

    found = {}
    for name, target in network.task.targets.items():
        value = about.get(name)
        known = value is not None and not pd.isna(value)
        if target.kind == "label":
            index = target.classes.index(value) if known and value in target.classes else -1
            found[name] = torch.tensor([index])
        else:
            found[name] = torch.tensor([float(value) if known else float("nan")])
    return found


def known(y: Mapping[str, Tensor], network: Learner) -> dict[str, Any]:
    """True values as people read them: a class or a number by target, none where there is none."""
    said = {}
    for name, target in network.task.targets.items():
        there = bool(target.has_label(y[name])[0])
        value = y[name][0].item()
        said[name] = (target.classes[int(value)] if target.kind == "label" else value) if there else None
    return said


class InspectedRun:
    """A run folder, opened.

    Args:
        folder: Its path.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Attributes:
        network: In evaluation mode.
        front: What makes its frames.
        epoch: After how many epochs its weights are.

    Raises:
        UserError: The folder is no run, or something in it cannot be read.
    """

    def __init__(self, folder: Path, checkpoint: str = "best") -> None:
        self.folder = folder
        self.files = RunFolder(folder)
        if not self.files.config_path.is_file():
            raise UserError(f"{folder}: is not a run folder; it has no {self.files.config_path.name}")
        named = {"best": self.files.best_path, "last": self.files.last_path}
        self.path = named.get(checkpoint, Path(checkpoint))
        if not self.path.is_file():
            raise UserError(f"{self.path}: there is no such checkpoint; name one with checkpoint=<file>")
        self.network: Learner = load_learner(self.path)
        self.epoch = int(read_checkpoint(self.path).get("epoch", -1)) + 1
        self.front: FrontEnd = instantiate.make(self.network.recipe["front"])
        self.columns = slice(*self.network.recipe["columns"])
        self._pack: Pack | None = None

    @property
    def rate(self) -> float:
        """Frames in a second, or in a beat."""
        return 1.0 if self.front.sync == "beat" else self.front.frames_per_second

    @property
    def pack(self) -> Pack:
        """The pack of the run's data; made when it is not there."""
        if self._pack is None:
            self._pack = self.data.open_pack()
        return self._pack

    @cached_property
    def data(self) -> MusicData:
        """The data of the run, which is not set up."""
        return build_datamodule(self.config)

    @property
    def config(self) -> dict[str, Any]:
        """Of the run."""
        config = self.files.config
        if not {"data", "feature"} <= set(config):
            raise UserError(f"{self.files.config_path}: is not the config of a run; it has no data and feature")
        instantiate.check_trusted(config)
        return config | {"seed": config.get("seed", 0)}

    def predictions(self) -> pd.DataFrame | None:
        """The table of predictions, where the run has come so far."""
        return self.files.predictions if self.files.predictions_path.is_file() else None

    def clips(self, wanted: list[str]) -> list[Clip]:
        """Clips that were named by id or file; the most confident error of the test part when none was.

        Raises:
            UserError: There is no such clip; the message names ids that are spelt like it.
        """
        if not wanted:
            return [self.default()]
        found = []
        for words in wanted:
            if Path(words).is_file():
                found.append(self.sound(Path(words)))
            else:
                found += [self.packed(row) for row in clip_frames.named_clips(words, self.pack.index, {}, "clip")]
        return found

    def packed(self, row: int, note: str = "") -> Clip:
        """A clip of the run's data."""
        import pandas as pd

        about = self.pack.index.iloc[row]
        x = torch.from_numpy(np.asarray(self.pack.clip(row)[:, self.columns], np.float32))[None]
        names = [name for name in (*self.network.task.targets, "group", "artist", "title") if name in about]
        words = [(name, about[name]) for name in names if not pd.isna(about[name])]
        part = self._part(str(about["id"]))
        return Clip(
            str(about["id"]), x, truth(about, self.network), words + ([("part", part)] if part else []), 0.0, note
        )

    def sound(self, path: Path) -> Clip:
        """A sound file through the network's front end; nothing is known about it."""
        from etude.data.readers import read_sound

        if not self.front.reads_sound:
            raise UserError(f"clip={path}: this network looks at images, and takes no sound file")
        frames = read_sound(path, self.front)[:, self.columns]
        return Clip(path.name, torch.from_numpy(np.ascontiguousarray(frames))[None], truth({}, self.network), [])

    def default(self) -> Clip:
        """The clip of the test part about which the network is most surely wrong."""
        table = self.predictions()
        test = None if table is None else table[table["split"] == "test"]
        if test is None or test.empty:
            name = self.files.predictions_path.name
            raise UserError(f"{self.folder}: has no {name} to choose a clip from; name one with clip=<id>")
        place, note = most_wrong(test, self.network)
        ids = {str(clip): row for row, clip in enumerate(self.pack.index["id"])}
        if (clip := str(test["id"].iloc[place])) not in ids:
            raise UserError(
                f"{self.folder}: clip {clip} of its predictions is not in its data; name one with clip=<id>"
            )
        return self.packed(ids[clip], note)

    def _part(self, clip: str) -> str:
        """Which part of the split a clip was in."""
        return self.files.split.get(clip, "")
