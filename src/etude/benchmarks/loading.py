"""Benchmarks of loading: start of the command line, short commands, jobs of a sweep, and batches of clips.

Reading batches is compared with a memory copy, a file per clip, safetensors and webdataset.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.config.compose import conf_dir
from etude.data.batches import Clips, CropBatchSampler
from etude.data.pack_writer import write_pack
from etude.data.sources.demo import collection
from etude.system.streams import track

CLIPS, BINS, FRAMES, BATCH, CROP, EPOCHS = 960, 140, 1292, 32, 512, 5
ROUNDS = 3
HEAVY = ("torch", "pytorch_lightning", "librosa", "umap", "wandb")
JOBS = 8
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
OVERRIDES = ("backbone=lstm", "debug=fast", "data.crop=1.0", f"seed={','.join(map(str, range(JOBS)))}")


TORCH = "python -c 'import torch'"
PREDICT, TRAIN, EXPORT = "predict one file of 8 s", "train a small LSTM with debug=fast", "export a CNN to ONNX"
LIMITS = {PREDICT: 2.0, TRAIN: 3.0, EXPORT: 4.0}  # durations relative to the import of torch
SECONDS, RATE = 8, 22050


def benchmark_startup() -> list[Section]:
    """Measure `python train.py --help`, the packages that it imports, and short commands from start to end."""
    return [_time_help(), time_commands()]


def _time_help() -> Section:
    """Measure the time of `python train.py --help`, and list the heavy packages that it imports."""
    script = conf_dir().parent / "train.py"  # an installed package has no script
    arguments = [str(script), "--help"] if script.is_file() else ["-m", "etude", "train", "--help"]
    name = f"python {' '.join(arguments)}".replace(str(script), script.name)
    times = time_rounds({name: lambda: _python(*arguments)}, ROUNDS)
    seconds = times.median(name)
    imported = heavy_imports(_python("-X", "importtime", *arguments))
    section = Section("Start-up", "ms", [(name, 1e3 * seconds, 1.0)])
    section.requirements = [
        Requirement(name, seconds, 1, False, " s"),
        Requirement(f"number of imported packages among {', '.join(HEAVY)}", len(imported), 0, False, ""),
    ]
    section.notes = [f"{module} is imported" for module in imported]
    return section


def time_commands(rounds: int = ROUNDS) -> Section:
    """Measure short commands from start to end, relative to the import of torch, in one thread.

    Before, a CNN is trained for two steps on the demo clips, whose frames are then stored.

    Args:
        rounds: Number of rounds.
    """
    with TemporaryDirectory() as folder:
        run, sound, numbers = Path(folder) / "run", Path(folder) / "sound.wav", count()
        run_etude(folder, "train", "debug=fast", "outputs=.", f"hydra.run.dir={run}")
        _write_sound(sound)
        short = ("backbone=lstm", "backbone.hidden=16", "data.crop=1.0", "debug=fast", "outputs=.")
        functions: dict[str, Callable[[], object]] = {
            TORCH: lambda: _python("-c", "import torch"),
            PREDICT: lambda: run_etude(folder, "predict", run, sound, "--out", f"predict{next(numbers)}"),
            TRAIN: lambda: run_etude(folder, "train", *short, f"hydra.run.dir=train{next(numbers)}"),
        }
        if has_onnx := all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
            functions[EXPORT] = lambda: run_etude(folder, "export", run, "--out", f"export{next(numbers)}")
        times = time_rounds(functions, rounds)
    section = Section("Short commands, from start to end; one thread", "s")
    section.rows = [(name, times.median(name), times.ratio(TORCH, name)) for name in functions]
    section.requirements = [
        Requirement(f"duration: {name} / {TORCH}", times.ratio(name, TORCH), LIMITS[name], at_least=False)
        for name in functions
        if name in LIMITS
    ]
    section.notes = [] if has_onnx else ["onnx, onnxscript or onnxruntime is not installed, so export was not timed"]
    return section


def benchmark_sweeps() -> list[Section]:
    """Measure the time of a sweep of tiny jobs with both launchers, from the command to its tables."""
    names = {"basic": "one process for all jobs", "isolated": "a process per job"}
    with TemporaryDirectory() as folder:
        functions: dict[str, Callable[[], object]] = {
            title: partial(_run_sweep, name, folder) for name, title in names.items()
        }
        times = time_rounds(functions, ROUNDS)
    single, separate = names.values()
    section = Section(f"Sweep of {JOBS} tiny jobs, from the command to its tables", "s")
    section.rows = [(name, times.median(name), times.ratio(single, name)) for name in names.values()]
    section.requirements = [Requirement(f"duration: {separate} / {single}", times.ratio(separate, single), 2, False)]
    return [section]


def heavy_imports(listing: str) -> list[str]:
    """Return the heavy packages in the output of `python -X importtime`."""
    imported = {line.rpartition("|")[2].strip() for line in listing.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in imported]


def _python(*arguments: str) -> str:
    """Run another interpreter and return its standard error."""
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True)
    return result.stderr


def run_etude(folder: str, *arguments: object) -> None:
    """Run a command of Étude in a folder, in one thread."""
    command = [sys.executable, "-m", "etude", *map(str, arguments)]
    subprocess.run(command, cwd=folder, env=os.environ | ONE_THREAD, capture_output=True, check=True)


def _write_sound(path: Path) -> None:
    """Write a decaying chord as a WAV file."""
    import soundfile

    time = np.arange(SECONDS * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in (220.0, 277.18, 329.63))
    soundfile.write(path, 0.2 * chord * np.exp(-(time % 1)), RATE)


def _run_sweep(launcher: str, folder: str) -> None:
    """Run `python train.py -m` in one thread."""
    run_etude(folder, "train", "-m", f"hydra/launcher={launcher}", *OVERRIDES)


def benchmark_data() -> list[Section]:
    """Measure the time of an epoch in one thread, with shuffled batches of 960 clips of 30 s."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        return _time_stores(Path(folder))


def _generate_clips() -> Iterator[np.ndarray]:
    """Yield 960 different clips (1292, 140), float32, built from the frames of the embedded music."""
    paths = collection().table["path"][::20]
    music = np.concatenate([frames(decode(Path(path), 22050), LogMelChroma()) for path in paths])
    rng = np.random.default_rng(0)
    for _ in range(CLIPS):
        start = int(rng.integers(len(music) - FRAMES))
        yield np.roll(music[start : start + FRAMES], int(rng.integers(FRAMES)), axis=0)


def _time_stores(folder: Path) -> list[Section]:
    """Write the clips in all formats, and measure the time of an epoch with complete clips and with crops."""
    import pandas as pd
    import torch

    (folder / "files").mkdir()
    arrays: list[np.ndarray] = []
    for i, clip in enumerate(track(_generate_clips(), CLIPS, "Clips to read", "clips")):
        np.save(folder / "files" / f"{i}.npy", clip)
        arrays.append(clip.astype(np.float16))
    table = pd.DataFrame({"id": [str(i) for i in range(CLIPS)]})
    pack = write_pack(folder / "pack", table, arrays, {})
    error = max(float(np.abs(np.load(folder / "files" / f"{i}.npy")[:, :128] - pack.clip(i)[:, :128]).max())
                for i in range(0, CLIPS, 40))  # fmt: skip
    complete = Clips(pack, np.arange(CLIPS), slice(0, BINS), {}, None)
    crops = Clips(pack, np.arange(CLIPS), slice(0, BINS), {}, CROP)
    order = [list(batch) for batch in CropBatchSampler(CLIPS, BATCH, shuffle=True)]
    memory = torch.randn(BATCH, FRAMES, BINS)

    def read_pack(clips: Clips) -> None:
        for indices in order:
            clips.__getitems__(indices).x.float()

    def copy_memory() -> None:
        for _ in order:
            batch = torch.empty(BATCH, FRAMES, BINS)
            for i in range(BATCH):
                batch[i].copy_(memory[i])

    def read_files(crop: int | None = None) -> None:
        for indices in order:
            clips = []
            for i, position in indices:
                clip = np.load(folder / "files" / f"{i}.npy")
                start = int(position * (FRAMES - crop + 1)) if crop else 0
                clips.append(torch.from_numpy(clip[start : start + crop] if crop else clip))
            torch.stack(clips)

    limit, etude, per_clip = "limit: copy of a clip into a new batch", "etude: memory map, a batch at once", "a file per clip, np.load"  # noqa: E501  # fmt: skip
    functions: dict[str, Callable[[], object]] = {
        limit: copy_memory,
        etude: lambda: read_pack(complete),
        per_clip: read_files,
    }
    notes = []
    for name, write_store in (("safetensors", _safetensors), ("webdataset", _webdataset)):
        if find_spec(name):
            functions[name] = write_store(folder, arrays, order)
        else:
            notes.append(f"{name} is not installed and was not timed")
    times = time_rounds(functions, EPOCHS)
    section = Section(
        "An epoch of 960 clips of (1292, 140), batches of 32, shuffled, as float32; one thread", "clips/s"
    )
    section.rows = [(name, CLIPS / times.median(name), times.ratio(limit, name)) for name in functions]
    section.requirements = [
        Requirement("speed: etude / a file per clip", times.ratio(per_clip, etude), 3),
        Requirement("speed: etude / copy", times.ratio(limit, etude), 0.5),
        Requirement("largest error of float16", error, 0.04, False, " dB"),
    ]
    section.notes = notes
    functions = {"etude: crops of 512 frames": lambda: read_pack(crops), "a file per clip": lambda: read_files(CROP)}
    times = time_rounds(functions, EPOCHS)
    ratio = times.ratio("a file per clip", "etude: crops of 512 frames")
    cropped = Section("The same with random crops of 512 frames", "clips/s")
    cropped.rows = [(name, CLIPS / times.median(name), times.ratio("a file per clip", name)) for name in functions]
    cropped.requirements = [Requirement("speed: etude / a file per clip", ratio, 4)]
    return [section, cropped]


def _safetensors(folder: Path, clips: list[np.ndarray], order: list[Any]) -> Callable[[], None]:
    """Write all clips into one file of named tensors and return a function that reads an epoch."""
    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file

    save_file({str(i): clip for i, clip in enumerate(clips)}, folder / "clips.safetensors")

    def read_epoch() -> None:
        with safe_open(folder / "clips.safetensors", framework="pt") as file:
            for indices in order:
                torch.stack([file.get_tensor(str(i)) for i, _ in indices]).float()

    return read_epoch


def _webdataset(folder: Path, clips: list[np.ndarray], order: list[Any]) -> Callable[[], None]:
    """Write shards of 96 clips and return a function that reads an epoch with a shuffle buffer of 200."""
    import torch
    import webdataset

    with webdataset.ShardWriter(str(folder / "shard-%03d.tar"), maxcount=96, verbose=0) as writer:
        for i, clip in enumerate(clips):
            buffer = io.BytesIO()
            np.save(buffer, clip)
            writer.write({"__key__": str(i), "npy": buffer.getvalue()})
    shards = [str(path) for path in sorted(folder.glob("shard-*.tar"))]

    def read_epoch() -> None:
        stream = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(200).decode().to_tuple("npy")
        for batch in stream.batched(len(order[0])):
            torch.from_numpy(batch[0]).float()

    return read_epoch
