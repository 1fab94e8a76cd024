"""Duplicate recordings in a collection.

Mean and spread of each mel band find the clips that might be, but many pieces share a timbre. So what decides is how
the spectrum changes over time: at the offset that suits best, two copies of a recording move together, whatever noise,
codec or gain lies between them, and two pieces do not. On the embedded clips, copies through MP3 or Vorbis, with noise
40 dB below the music, or cut in half correlate at .91 to 1.00, and no two pieces above .6.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.files.progress import track

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


def same(index: pd.DataFrame) -> list[list[int]]:
    """Rows of clips with equal frames, a list for each sound that stands under several ids."""
    rows = index.groupby("content", sort=False).indices if "content" in index else {}
    return sorted(sorted(map(int, found)) for found in rows.values() if len(found) > 1)


def statistics(pack: Pack, mels: int) -> np.ndarray:
    """Mean and standard deviation over time of each mel band of each clip, (N, 2 M), dB."""
    from etude.evaluation.baselines import mel_statistics

    count = len(pack.index)
    rows = track(range(count), count, "Mel statistics", "clips")
    return np.array([mel_statistics(pack.clip(row)[:, :mels]) for row in rows])


def neighbours(vectors: np.ndarray) -> dict[tuple[int, int], float]:
    """Pairs of rows, the smaller first, of which one is among the five nearest of the other, with their cosine.

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


def pairs(pack: Pack, mels: int) -> dict[str, Any]:
    """Clips that sound like one recording although their frames differ.

    Args:
        pack: The clips.
        mels: Mel bands of a frame, M.

    Returns:
        `alike`, the most alike first: `a`, `b` (rows), `correlation`, `cosine` and `offset`, the frames by which b
        begins after a; `compared`, how many pairs were; and `closest`, the first of the others, or None.
    """
    copies = [row for rows in same(pack.index) for row in rows[1:]]  # they are listed as such already
    rows = np.setdiff1d(np.arange(len(pack.index)), copies)
    near = neighbours(statistics(pack, mels)[rows])

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


def shapes(mel: np.ndarray) -> np.ndarray:
    """How the spectrum's shape changes: (T, M) dB to (T, 16), without each frame's level and each band's mean."""
    edges = np.linspace(0, mel.shape[1], min(BANDS, mel.shape[1]) + 1).astype(int)
    bands = np.add.reduceat(mel.astype(np.float32), edges[:-1], axis=1) / np.diff(edges)
    bands -= bands.mean(1, keepdims=True)
    return bands - bands.mean(0)


def aligned(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """The highest correlation of two clips over all offsets at which half of the shorter one lies on the other.

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


def _sums(z: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of each band (L, B), and of all squares (L,), of the frames (T, B) from `first` to before `last`, (L,)."""
    running = np.concatenate([np.zeros((1, z.shape[1])), np.cumsum(z, axis=0, dtype=np.float64)])
    squares = np.append(0.0, np.cumsum(np.square(z, dtype=np.float64).sum(1)))
    return running[last] - running[first], squares[last] - squares[first]
