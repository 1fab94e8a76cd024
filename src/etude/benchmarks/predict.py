"""Predictions on a folder: files heard in processes and judged in batches, against loops of one file at a time.

Two cores halve the time of the decoder and the front end, which a bare loop spends most of its time in, and batches
take some of the network's: against such a loop there is little more than a factor of two to be had. A loop of calls of
`predict` also makes a table for each file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etude.audio.decode import decode
from etude.benchmarks.timing import Bar, Section, rounds
from etude.config import instantiate
from etude.config.compose import conf_dir
from etude.data.sources.demo import collection
from etude.inference import engine
from etude.inference.model import Model
from etude.inference.tables import predict_tables
from etude.training.build import build_from_recipe

TIMES, BATCH, ROUNDS = 10, 32, 3  # how often the embedded clips are in the folder; loops have them once
LINE = ("backbone=lstm", "task=joint")


def run() -> list[Section]:
    """Time a list of 10 s clips, from the start of the processes to the last row; a thread in each process."""
    import torch

    torch.set_num_threads(1)
    paths = [Path(path) for path in collection().table["path"]]
    with TemporaryDirectory() as folder:
        return _sections(_checkpoint(Path(folder)), paths)


def _checkpoint(folder: Path) -> Path:
    """Of a network that nobody has trained: it is as fast as one that somebody has."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", overrides=list(LINE))
    config: Any = {
        key: OmegaConf.to_container(composed[key], resolve=True)
        for key in ("backbone", "head", "task", "weighting", "augment", "optim", "feature")
    }
    feature = instantiate.make(config["feature"])
    recipe = {
        "config": config, "targets": collection().targets, "bins": feature.bins,
        "columns": [feature.columns.start, feature.columns.stop], "front": feature.front.to_dict(),
        "evaluation": {"frames": 431, "longest": 431},
    }  # fmt: skip
    path = folder / "network.ckpt"
    torch.save({"state_dict": build_from_recipe(recipe).state_dict(), "etude": recipe}, path)
    return path


def _sections(checkpoint: Path, paths: list[Path]) -> list[Section]:
    from multiprocessing import forkserver

    import numpy as np
    import torch

    model = Model(checkpoint, "cpu")
    network, front, view = model.network, model.front, slice(*model.network.recipe["columns"])
    said: dict[str, list[float]] = {}

    def calls() -> None:
        said[called] = [float(predict_tables(model, path).files["energy.pred"][0]) for path in paths]

    def loop() -> None:
        said[alone] = []
        with torch.no_grad():
            for path in paths:
                x = torch.from_numpy(front.frames(decode(path, front.rate))[:, view])[None]
                _, out = network(x, torch.tensor([x.shape[1]]))
                said[alone].append(float(network.task.predict(out)["energy"]))

    def ours() -> None:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # so that its start is in every round
        place = list(model.columns.targets).index("energy") - len(model.columns.targets)  # scalars are the last
        results = engine.predict(model, paths * TIMES, model.plan(), BATCH)
        said[batched] = [one.values[place] for one in results if one.values]

    called, alone, batched = "predict, a file at a time", "a bare loop over files", "ours: predict, all files"
    contenders: dict[str, Callable[[], object]] = {called: calls, alone: loop, batched: ours}
    times = rounds(contenders, ROUNDS)
    error = float(np.abs(np.subtract(said[alone], said[batched][: len(paths)])).max())
    count = {called: len(paths), alone: len(paths), batched: TIMES * len(paths)}

    def faster(slow: str, fast: str) -> float:
        return times.ratio(slow, fast) * count[fast] / count[slow]

    section = Section(f"Predictions of an LSTM on {count[batched]:,} clips of 10 s, from files; one thread", "files/s")
    section.rows = [(name, count[name] / times.median(name), faster(called, name)) for name in contenders]
    section.bars = [
        Bar("all files against a file at a time", faster(called, batched), 3),
        Bar("all files against the bare loop", faster(alone, batched), 1.5),
        Bar("largest difference in energy", error, 1e-3, False, ""),
    ]
    return [section]
