"""From a collection of sound files to a pack, made once and reused: one process per core, one thread each."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.decode import DecodeError, decode
from etude.audio.spectral import FrontEnd, frames
from etude.data.collection import Collection, DataError
from etude.data.pack import FORMAT, MANIFEST, Pack, write
from etude.progress import track

log = logging.getLogger(__name__)
SKIPPED = "skipped.csv"
MAX_SKIPPED = 0.1  # a collection of which more than this share cannot be read is a mistake, not a collection


def prepare(collection: Collection, front: FrontEnd, packs: Path, workers: int | None = None) -> Pack:
    """The pack of a collection, from disk when it is there and still true, else made now.

    Args:
        collection: What to pack.
        front: How frames are made.
        packs: Folder of packs. Each front end has one of its own beside the others.
        workers: Processes; none means one per core.

    Returns:
        The opened pack. Clips that cannot be decoded are left out and listed in its skipped.csv with the reason.

    Raises:
        DataError: More than a tenth of the clips cannot be decoded.
    """
    folder = packs / f"{collection.name}-{_short(front.to_dict())}"
    origin = {"name": collection.name, "front": front.to_dict(), "fingerprint": collection.fingerprint()}
    if _holds(folder, origin):
        return Pack(folder)
    table = collection.table.reset_index(drop=True)
    made: list[np.ndarray] = []
    skipped: list[tuple[str, str]] = []
    kept = np.ones(len(table), bool)
    jobs = [(path, front) for path in table["path"]]
    for row, result in enumerate(track(_map(jobs, workers), len(jobs), f"Frames of {collection.name}", "clips")):
        if isinstance(result, str):
            skipped.append((table["id"][row], result))
            kept[row] = False
        else:
            made.append(result)
    if len(skipped) > MAX_SKIPPED * len(table):
        raise DataError(
            f"{collection.name}: {len(skipped)} of {len(table)} clips cannot be read, for example {skipped[0][1]}"
        )
    listing = io.StringIO()
    csv.writer(listing).writerows([("id", "reason"), *skipped])
    if skipped:
        log.warning("%d clips are skipped; %s says why", len(skipped), folder / SKIPPED)
    return write(folder, table[kept].drop(columns="path"), made, origin, {SKIPPED: listing.getvalue()})


def _map(jobs: list[tuple[str, FrontEnd]], workers: int | None) -> Iterator[np.ndarray | str]:
    """Frames, or the reason why there are none, of each job in order."""
    count = min(workers or os.cpu_count() or 1, len(jobs))
    if count == 1:
        yield from map(_clip, jobs)
        return
    # spawned, not forked: a fork of a process that holds threads or a GPU can hang
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_clip, jobs, chunksize=4)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _clip(job: tuple[str, FrontEnd]) -> np.ndarray | str:
    path, front = job
    try:
        return frames(decode(Path(path), front.rate), front).astype(np.float16)
    except DecodeError as error:
        return str(error)


def _holds(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether the folder has a finished pack of this very origin."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return manifest.get("format") == FORMAT and all(manifest.get(key) == value for key, value in origin.items())


def _short(values: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
