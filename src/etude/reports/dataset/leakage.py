"""Leakage between splits: duplicate recordings, shared groups, and the findings of the dataset page.

Mean and spread of each mel band find the clips that may be duplicates, but many pieces share a timbre. The decision
therefore depends on how the spectrum changes over time: at the best offset, two copies of a recording move together,
whatever noise, codec or gain lies between them, and two pieces do not. On the embedded clips, copies through MP3 or
Vorbis, with noise 40 dB below the music, or cut in half correlate at .91 to 1.00, and no two pieces above .6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.splits import SPLITS, group_codes
from etude.evaluation.baselines import mel_statistics
from etude.evaluation.formatting import capital, format_number, plural
from etude.files.progress import track
from etude.reports.clip_frames import ClipFile

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack


ALIKE = 0.9  # correlation over time from which on two clips are called one recording
CLOSE = 0.7  # cosine of their statistics below which they are not even compared
NEAREST = 5  # neighbours of a clip that are compared with it
BLOCK = 1024  # clips at a time: 1024 x N similarities are in memory, never N x N
BANDS = 16
LONGEST = 4096  # frames of a clip that are compared, 95 s at the usual hop
SHORTEST = 8  # frames that two clips must have in common
EPSILON = 1e-3  # dB^4; below it nothing changes
FEW = 3  # examples in a sentence; the tables have them all
GOOD, BAD, OPEN = "good", "bad", "open"
ALONE = "so that to know the group is to know the class"
Sentences = Iterator[tuple[str, str]]


def identical_clips(index: pd.DataFrame) -> list[list[int]]:
    """Return rows of clips with equal frames, a list for each sound that has several ids."""
    rows = index.groupby("content", sort=False).indices if "content" in index else {}
    return sorted(sorted(map(int, found)) for found in rows.values() if len(found) > 1)


def similar_pairs(pack: Pack, mels: int) -> dict[str, Any]:
    """Find clips that sound like one recording although their frames differ.

    Args:
        pack: The clips.
        mels: Mel bands of a frame, M.

    Returns:
        `alike`, the most alike first: `a`, `b` (rows), `correlation`, `cosine` and `offset`, the frames by which b
        begins after a; `compared`, how many pairs were; and `closest`, the first of the others, or None.
    """
    copies = [row for rows in identical_clips(pack.index) for row in rows[1:]]  # they are listed as such already
    rows = np.setdiff1d(np.arange(len(pack.index)), copies)
    near = close_pairs(_mel_statistics(pack, mels)[rows])

    @lru_cache(maxsize=256)
    def shape(row: int) -> np.ndarray:
        return shapes(pack.clip(row, 0, LONGEST)[:, :mels])

    found = []
    for (i, j), cosine in track(sorted(near.items()), len(near), "Clips that are near each other", "pairs"):
        a, b = int(rows[i]), int(rows[j])
        correlation, offset = aligned(shape(a), shape(b))
        found.append({"a": a, "b": b, "correlation": correlation, "cosine": cosine, "offset": offset})
    found.sort(key=lambda pair: -pair["correlation"])
    alike = [pair for pair in found if pair["correlation"] >= ALIKE]
    return {"alike": alike, "compared": len(found), "closest": found[len(alike)] if len(found) > len(alike) else None}


def close_pairs(vectors: np.ndarray) -> dict[tuple[int, int], float]:
    """Return pairs of rows, the smaller first, of which one is among the five nearest of the other, and their cosine.

    Args:
        vectors: (N, P); each column is standardised first.
    """
    spread = vectors.std(0)
    unit = ((vectors - vectors.mean(0)) / np.where(spread > 1e-6, spread, np.inf)).astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    found: dict[tuple[int, int], float] = {}
    count = min(NEAREST, len(unit) - 1)
    for start in range(0, len(unit) if count > 0 else 0, BLOCK):
        cosine = unit[start : start + BLOCK] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -1
        for row, near in zip(rows, np.argpartition(-cosine, count - 1, axis=1)[:, :count], strict=True):
            for other in near[cosine[row, near] >= CLOSE]:
                pair = (min(start + row, other), max(start + row, other))
                found[int(pair[0]), int(pair[1])] = float(cosine[row, other])
    return found


def shapes(mel: np.ndarray) -> np.ndarray:
    """Return mel bands (T, M) in dB as (T, 16), without each frame's level and each band's mean."""
    edges = np.linspace(0, mel.shape[1], min(BANDS, mel.shape[1]) + 1).astype(int)
    bands = np.add.reduceat(mel.astype(np.float32), edges[:-1], axis=1) / np.diff(edges)
    bands -= bands.mean(1, keepdims=True)
    return bands - bands.mean(0)


def aligned(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """Return the highest correlation of two clips over all offsets at which half of the shorter one lies on the other.

    Args:
        x: (T, B).
        y: (U, B).

    Returns:
        The correlation of what lies on each other, about the mean of each band there, and at which frame of x the first
        of y lies; (0, 0) for what never changes.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(len(x) + len(y), real=True)
    offsets = np.arange(1 - len(y), len(x))
    first, last = np.maximum(offsets, 0), np.minimum(offsets + len(y), len(x))
    products = irfft((rfft(x, size, axis=0) * rfft(y, size, axis=0).conj()).sum(1), size)[offsets]
    (sum_x, power_x), (sum_y, power_y) = _sums(x, first, last), _sums(y, first - offsets, last - offsets)
    common = last - first
    power = (power_x - (sum_x**2).sum(1) / common) * (power_y - (sum_y**2).sum(1) / common)
    usable = (common >= max(SHORTEST, min(len(x), len(y)) / 2)) & (power > EPSILON)
    if not usable.any():
        return 0.0, 0
    value = (products - (sum_x * sum_y).sum(1) / common) / np.sqrt(np.maximum(power, EPSILON))
    best = int(np.where(usable, value, -1.0).argmax())
    return float(min(1.0, value[best])), int(offsets[best])


def groups_in_several_splits(index: pd.DataFrame, assigned: np.ndarray | None) -> list[dict[str, Any]]:
    """Return the groups with clips in more than one split: `group` and its clips by split."""
    if assigned is None:
        return []
    known = index["group"].notna().to_numpy() & np.isin(assigned, SPLITS)
    found = []
    for name, rows in index[known].groupby("group", sort=True).indices.items():
        counts = {part: int((assigned[known][rows] == part).sum()) for part in SPLITS}
        if sum(count > 0 for count in counts.values()) > 1:
            found.append({"group": str(name), "parts": counts})
    return found


def classes_of_one_group(index: pd.DataFrame, name: str, classes: list[str]) -> list[dict[str, str]]:
    """Return the classes all of whose clips are of one group: `class` and `group`."""
    groups, column = group_codes(index), index[name].to_numpy()
    found = []
    for kind in classes:
        here = column == kind
        if here.sum() > 1 and len(set(groups[here])) == 1:
            found.append({"class": kind, "group": str(index["group"].to_numpy()[here][0])})
    return found


def missing_classes(label: dict[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of a class and a split without a clip of it, of a label as `statistics.label_counts` returns it."""
    return [(row["class"], part) for row in label["classes"] for part in SPLITS if row["parts"].get(part) == 0]


def repeated_file_names(known: dict[str, ClipFile], ids: list[str]) -> list[dict[str, Any]] | None:
    """Return file names that occur in several folders: `name` and `ids`, most frequent first; None without files."""
    if not known:
        return None
    names: dict[str, list[str]] = {}
    for clip in ids:
        if clip in known:
            names.setdefault(PurePath(known[clip].path).name, []).append(clip)
    twice = [{"name": name, "ids": found} for name, found in names.items() if len(found) > 1]
    return sorted(twice, key=lambda row: -len(row["ids"]))


def findings(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return sentences with their kind, `good`, `bad` or `open` (to check, or not known), the bad ones first.

    Args:
        facts: As `statistics.gather` returns them.
    """
    found = [*_copies(facts), *_alike(facts), *_groups(facts), *_classes(facts), *_missing(facts), *_names(facts)]
    return sorted(found, key=lambda one: (BAD, OPEN, GOOD).index(one[0]))


def _mel_statistics(pack: Pack, mels: int) -> np.ndarray:
    """Return mean and standard deviation over time of each mel band of each clip, (N, 2 M), in dB."""
    count = len(pack.index)
    rows = track(range(count), count, "Mel statistics", "clips")
    return np.array([mel_statistics(pack.clip(row)[:, :mels]) for row in rows])


def _sums(z: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of each band (L, B), and of all squares (L,), of frames (T, B) from `first` to before `last` (L,)."""
    running = np.concatenate([np.zeros((1, z.shape[1])), np.cumsum(z, axis=0, dtype=np.float64)])
    squares = np.append(0.0, np.cumsum(np.square(z, dtype=np.float64).sum(1)))
    return running[last] - running[first], squares[last] - squares[first]


def _copies(facts: dict[str, Any]) -> Sentences:
    rows = facts["copies"]
    if not rows:
        yield GOOD, "No audio occurs twice."
        return
    few = _some(" = ".join(row["ids"]) for row in rows)
    words = f"{_count(rows, 'sound stands', 'sounds stand')} under several ids: {few}."
    if crossing := sum(row["crosses"] for row in rows):
        words += f" {_of(crossing, len(rows))} on two sides of the split."
    if differing := sum(bool(row["differ"]) for row in rows):
        words += f" {_of(differing, len(rows))} under different labels."
    yield BAD, words


def _alike(facts: dict[str, Any]) -> Sentences:
    pairs, closest = facts["alike"]["pairs"], facts["alike"]["closest"]
    inside = " within one part" if facts["parts"] else ""
    for crosses, where in ((True, " across the split"), (False, inside)):
        rows = [pair for pair in pairs if pair["crosses"] == crosses]
        if rows:
            few = _some(" – ".join(pair["ids"]) for pair in rows)
            yield BAD, f"{_count(rows, 'pair sounds', 'pairs sound')} almost alike{where}: {few}."
    if not pairs and facts["data"]["sound"]:
        words = "No two clips sound like one recording"
        if closest and closest["correlation"] > 0:
            ids, value = " – ".join(closest["ids"]), format_number(closest["correlation"])
            words += f"; the two that come nearest, {ids}, correlate at {value}"
        yield GOOD, words + "."


def _groups(facts: dict[str, Any]) -> Sentences:
    data, sides = facts["data"], facts["sides"]
    if not data["groups"]:
        yield OPEN, "No groups are known, so nothing tells whether one artist is in both training and test."
        return
    if sides:
        few = _some(row["group"] for row in sides)
        yield BAD, f"{_count(sides, 'group stands', 'groups stand')} on two sides of the split: {few}."
    elif facts["parts"]:
        yield GOOD, "No group stands on two sides of the split."
    if alone := data["without_group"]:
        said = "has no group and counts" if alone == 1 else "have no group; each counts"
        yield OPEN, f"{plural(alone, 'clip')} {said} as a group of its own."


def _classes(facts: dict[str, Any]) -> Sentences:
    for name, label in facts["labels"].items():
        if lonely := label["lonely"]:
            few = _some(f"{row['class']} from {row['group']}" for row in lonely)
            yield BAD, f"{capital(name)}: {_count(lonely, 'class is', 'classes are')} one group’s ({few}), {ALONE}."
        elif facts["data"]["groups"]:
            yield GOOD, f"{capital(name)}: every class comes from two groups or more."
        if lacking := missing_classes(label):
            few = _some(f"{part} has no {kind}" for kind, part in lacking)
            yield BAD, f"{capital(name)}: not every part of the split has every class ({few})."


def _missing(facts: dict[str, Any]) -> Sentences:
    for name, target in (facts["labels"] | facts["scalars"]).items():
        if missing := target["missing"]:
            yield OPEN, f"{capital(name)} is not known of {plural(missing, 'clip')}."


def _names(facts: dict[str, Any]) -> Sentences:
    rows = facts["names"]
    if rows is None:
        yield OPEN, "The pack does not say from which files it was made, so file names are not compared."
    elif rows:
        few = _some(f"{row['name']} ({plural(len(row['ids']), 'time')})" for row in rows)
        yield OPEN, f"{_count(rows, 'file name occurs', 'file names occur')} more than once: {few}."
    else:
        yield GOOD, "No file name occurs twice."


def _some(names: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    every = list(names)
    rest = len(every) - FEW
    return "; ".join(every[:FEW]) + (f"; and {rest} more" if rest > 0 else "")


def _count(rows: list[Any], one: str, more: str) -> str:
    return f"{len(rows):,} {one if len(rows) == 1 else more}"


def _of(count: int, every: int) -> str:
    """How many of several stand somewhere."""
    if every == 1:
        return "It stands"
    if count == every:
        return "All stand"
    return f"{count} of them {'stands' if count == 1 else 'stand'}"
