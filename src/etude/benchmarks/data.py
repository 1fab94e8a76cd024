"""Benchmark of data loading against a memory copy, a file per clip, safetensors and webdataset."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.benchmarks.timing import Requirement, Section, time_rounds
from etude.data.batches import Clips, CropBatchSampler
from etude.data.pack_writer import write_pack
from etude.data.sources.demo import collection
from etude.files.progress import track

CLIPS, BINS, FRAMES, BATCH, CROP, ROUNDS = 960, 140, 1292, 32, 512, 5


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
    times = time_rounds(functions, ROUNDS)
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
    times = time_rounds(functions, ROUNDS)
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
