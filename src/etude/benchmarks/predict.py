"""Benchmark of predicting many files in processes and batches against loops over single files.

A minimal loop spends most of its time in the decoder and the front end. Two processes on two cores halve this time, and
batches reduce the time of the network. Therefore a factor of little more than two is possible. A loop that calls
`predict` for each file also builds a table for each file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etude.audio.decode import decode
from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.config import instantiate
from etude.config.compose import conf_dir
from etude.data.sources.demo import collection
from etude.inference import engine
from etude.inference.model import Model
from etude.inference.tables import predict_tables
from etude.training.network import build_network

REPEATS, BATCH, ROUNDS = 10, 32, 3  # repeats of the demo clips; loops predict them once
OVERRIDES = ("backbone=lstm", "task=joint")


def benchmark_predict() -> list[Section]:
    """Measure the time to predict a list of 10 s clips, from the start of the processes to the last output row.

    Each process has one thread.
    """
    import torch

    torch.set_num_threads(1)
    paths = [Path(path) for path in collection().table["path"]]
    with TemporaryDirectory() as folder:
        return _time_prediction(_write_checkpoint(Path(folder)), paths)


def _write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with random weights, which do not change the speed, and return its path."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("train", overrides=list(OVERRIDES))
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
    torch.save({"state_dict": build_network(recipe).state_dict(), "etude": recipe}, path)
    return path


def _time_prediction(checkpoint: Path, paths: list[Path]) -> list[Section]:
    """Measure the time to predict files with a checkpoint, and compare the predicted values."""
    from multiprocessing import forkserver

    import numpy as np
    import torch

    model = Model(checkpoint, "cpu")
    network, front, view = model.network, model.front, slice(*model.network.recipe["columns"])
    energy: dict[str, list[float]] = {}

    def predict_single_files() -> None:
        energy[single_calls] = [float(predict_tables(model, path).files["energy.pred"][0]) for path in paths]

    def predict_in_loop() -> None:
        energy[loop] = []
        with torch.no_grad():
            for path in paths:
                x = torch.from_numpy(front.frames(decode(path, front.rate))[:, view])[None]
                _, out = network(x, torch.tensor([x.shape[1]]))
                energy[loop].append(float(network.task.predict(out)["energy"]))

    def predict_all_files() -> None:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]  # each round includes the server's start
        index = list(model.columns.targets).index("energy") - len(model.columns.targets)  # scalars are the last
        results = engine.predict(model, paths * REPEATS, model.plan(), BATCH)
        energy[all_files] = [result.values[index] for result in results if result.values]

    single_calls, loop, all_files = "predict, a file per call", "minimal loop over files", "predict, all files"
    functions: dict[str, Callable[[], object]] = {
        single_calls: predict_single_files,
        loop: predict_in_loop,
        all_files: predict_all_files,
    }
    times = time_rounds(functions, ROUNDS)
    error = float(np.abs(np.subtract(energy[loop], energy[all_files][: len(paths)])).max())
    count = {single_calls: len(paths), loop: len(paths), all_files: REPEATS * len(paths)}

    def speed_ratio(slow: str, fast: str) -> float:
        return times.ratio(slow, fast) * count[fast] / count[slow]

    section = Section(f"Predictions of an LSTM for {count[all_files]:,} files of 10 s; one thread", "files/s")
    section.rows = [(name, count[name] / times.median(name), speed_ratio(single_calls, name)) for name in functions]
    section.requirements = [
        Requirement("speed: all files / a file per call", speed_ratio(single_calls, all_files), 3),
        Requirement("speed: all files / minimal loop", speed_ratio(loop, all_files), 1.5),
        Requirement("largest difference of energy", error, 1e-3, False, ""),
    ]
    return [section]
