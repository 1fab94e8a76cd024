"""Frames on disk to batches against the copy that no loader can do without, and against other stores."""

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
from etude.benchmarks.timing import Bar, Section, rounds
from etude.data.batches import Clips, CropBatchSampler
from etude.data.pack_writer import write_pack
from etude.data.sources.demo import collection
from etude.files.progress import track

CLIPS, BINS, FRAMES, BATCH, CROP, ROUNDS = 960, 140, 1292, 32, 512, 5


def run() -> list[Section]:
    """Time an epoch of shuffled batches over 960 clips of 30 s, one thread."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        return _sections(Path(folder))


def _clips() -> Iterator[np.ndarray]:
    """960 clips of (1292, 140) float32: frames of the embedded music in ever new order, so that no two are alike."""
    paths = collection().table["path"][::20]
    music = np.concatenate([frames(decode(Path(path), 22050), LogMelChroma()) for path in paths])
    rng = np.random.default_rng(0)
    for _ in range(CLIPS):
        start = int(rng.integers(len(music) - FRAMES))
        yield np.roll(music[start : start + FRAMES], int(rng.integers(FRAMES)), axis=0)


def _sections(folder: Path) -> list[Section]:
    import pandas as pd
    import torch

    (folder / "files").mkdir()
    kept: list[np.ndarray] = []
    for i, clip in enumerate(track(_clips(), CLIPS, "Clips to read", "clips")):
        np.save(folder / "files" / f"{i}.npy", clip)
        kept.append(clip.astype(np.float16))
    table = pd.DataFrame({"id": [str(i) for i in range(CLIPS)]})
    pack = write_pack(folder / "pack", table, kept, {})
    error = max(float(np.abs(np.load(folder / "files" / f"{i}.npy")[:, :128] - pack.clip(i)[:, :128]).max())
                for i in range(0, CLIPS, 40))  # fmt: skip
    whole = Clips(pack, np.arange(CLIPS), slice(0, BINS), {}, None)
    crops = Clips(pack, np.arange(CLIPS), slice(0, BINS), {}, CROP)
    order = [list(batch) for batch in CropBatchSampler(CLIPS, BATCH, shuffle=True)]
    ram = torch.randn(BATCH, FRAMES, BINS)

    def ours(clips: Clips) -> None:
        for picks in order:
            clips.__getitems__(picks).x.float()

    def copies() -> None:
        for _ in order:
            batch = torch.empty(BATCH, FRAMES, BINS)
            for place in range(BATCH):
                batch[place].copy_(ram[place])

    def files(crop: int | None = None) -> None:
        for picks in order:
            clips = []
            for i, where in picks:
                clip = np.load(folder / "files" / f"{i}.npy")
                start = int(where * (FRAMES - crop + 1)) if crop else 0
                clips.append(torch.from_numpy(clip[start : start + crop] if crop else clip))
            torch.stack(clips)

    limit, mine, each = "limit: memcpy of a clip into a fresh batch", "ours: memory map, a batch at once", "a file per clip, np.load"  # noqa: E501  # fmt: skip
    contenders: dict[str, Callable[[], object]] = {limit: copies, mine: lambda: ours(whole), each: files}
    notes = []
    for name, peer in (("safetensors", _safetensors), ("webdataset", _webdataset)):
        if find_spec(name):
            contenders[name] = peer(folder, kept, order)
        else:
            notes.append(f"{name} is not installed and was not timed")
    times = rounds(contenders, ROUNDS)
    section = Section(
        "An epoch of 960 clips of (1292, 140), batches of 32, shuffled, as float32; one thread", "clips/s"
    )
    section.rows = [(name, CLIPS / times.median(name), times.ratio(limit, name)) for name in contenders]
    section.bars = [
        Bar("ours against a file per clip", times.ratio(each, mine), 3),
        Bar("ours against memcpy", times.ratio(limit, mine), 0.5),
        Bar("largest error of float16", error, 0.04, False, " dB"),
    ]
    section.notes = notes
    contenders = {"ours: crops of 512 frames": lambda: ours(crops), "a file per clip": lambda: files(CROP)}
    times = rounds(contenders, ROUNDS)
    cropped = Section("The same, random crops of 512 frames", "clips/s")
    cropped.rows = [(name, CLIPS / times.median(name), times.ratio("a file per clip", name)) for name in contenders]
    cropped.bars = [Bar("ours against a file per clip", times.ratio("a file per clip", "ours: crops of 512 frames"), 4)]
    return [section, cropped]


def _safetensors(folder: Path, clips: list[np.ndarray], order: list[Any]) -> Callable[[], None]:
    """All clips in one file of named tensors."""
    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file

    save_file({str(i): clip for i, clip in enumerate(clips)}, folder / "clips.safetensors")

    def epoch() -> None:
        with safe_open(folder / "clips.safetensors", framework="pt") as file:
            for picks in order:
                torch.stack([file.get_tensor(str(i)) for i, _ in picks]).float()

    return epoch


def _webdataset(folder: Path, clips: list[np.ndarray], order: list[Any]) -> Callable[[], None]:
    """Shards of 96 clips, a shuffle buffer of 200."""
    import torch
    import webdataset

    with webdataset.ShardWriter(str(folder / "shard-%03d.tar"), maxcount=96, verbose=0) as writer:
        for i, clip in enumerate(clips):
            buffer = io.BytesIO()
            np.save(buffer, clip)
            writer.write({"__key__": str(i), "npy": buffer.getvalue()})
    shards = [str(path) for path in sorted(folder.glob("shard-*.tar"))]

    def epoch() -> None:
        stream = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(200).decode().to_tuple("npy")
        for batch in stream.batched(len(order[0])):
            torch.from_numpy(batch[0]).float()

    return epoch
