"""A run folder, opened: its trained network, and the frames of clips by their ids or from sound files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from etude import build
from etude.audio.front import Front
from etude.checkpoint import read
from etude.errors import UserError
from etude.inspection.clips import Clip, most_wrong, truth
from etude.results.exploration import choose
from etude.results.exploration.views import hears

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.module import MusicData
    from etude.data.pack import Pack
    from etude.learner import Learner


class Run:
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
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder}: is not a run folder; it has no config.yaml")
        named = folder / "checkpoints" / f"{checkpoint}.ckpt"
        self.path = named if checkpoint in ("best", "last") else Path(checkpoint)
        if not self.path.is_file():
            raise UserError(f"{self.path}: there is no such checkpoint; name one with checkpoint=<file>")
        self.network: Learner = build.load(self.path)
        self.epoch = int(read(self.path).get("epoch", -1)) + 1
        self.front: Front = build.make(self.network.recipe["front"])
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
            self._pack = self.data.source.pack(self.data.feature.front, self.data.rules)
        return self._pack

    @cached_property
    def data(self) -> MusicData:
        """The data of the run, which is not set up."""
        return build.data(self.config)

    @property
    def config(self) -> dict[str, Any]:
        """Of the run."""
        from omegaconf import OmegaConf

        path = self.folder / "config.yaml"
        try:
            config = OmegaConf.to_container(OmegaConf.load(path))
        except Exception as error:  # whatever YAML has against it
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
        if not isinstance(config, dict) or not {"data", "feature"} <= set(config):
            raise UserError(f"{path}: is not the config of a run; it has no data and feature")
        build.vet(config)
        return {str(key): value for key, value in config.items()} | {"seed": config.get("seed", 0)}

    def predictions(self) -> pd.DataFrame | None:
        """The table of predictions, where the run has come so far."""
        from etude.results import reading

        return reading.table(self.folder) if (self.folder / reading.TABLE).is_file() else None

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
                found += [self.packed(row) for row in choose.named(words, self.pack.index, {}, "clip")]
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
        from etude.data.read import sound

        if not hears(self.front):
            raise UserError(f"clip={path}: this network looks at images, and takes no sound file")
        frames = sound(path, self.front)[:, self.columns]
        return Clip(path.name, torch.from_numpy(np.ascontiguousarray(frames))[None], truth({}, self.network), [])

    def default(self) -> Clip:
        """The clip of the test part about which the network is most surely wrong."""
        table = self.predictions()
        test = None if table is None else table[table["split"] == "test"]
        if test is None or test.empty:
            raise UserError(f"{self.folder}: has no predictions.parquet to choose a clip from; name one with clip=<id>")
        place, note = most_wrong(test, self.network)
        ids = {str(clip): row for row, clip in enumerate(self.pack.index["id"])}
        if (clip := str(test["id"].iloc[place])) not in ids:
            raise UserError(
                f"{self.folder}: clip {clip} of its predictions is not in its data; name one with clip=<id>"
            )
        return self.packed(ids[clip], note)

    def _part(self, clip: str) -> str:
        """Which part of the split a clip was in."""
        from etude.results import reading

        return reading.split(self.folder).get(clip, "")
