"""Whether a file says what the network says: on real clips of different lengths, together and one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from etude.errors import UserError
from etude.export.clips import frames
from etude.export.graph import EMBEDDING, Graph
from etude.prediction.windows import Window

if TYPE_CHECKING:
    from etude.export.formats import Says
    from etude.prediction.model import Model

MOST = 1e-3  # of probabilities, values in their range, and units of the embedding (of larger ones, of the largest)
Said = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """Clips, and what the network says of each, as predictions have it.

    Args:
        given: What a graph takes of each clip: samples (N,) or frames (T, F), float32.
        said: By name, embedding (D,), probabilities (K,) or a value ().
    """

    given: list[np.ndarray]
    said: list[Said]

    @classmethod
    def of(cls, model: Model, sounds: Sequence[np.ndarray], takes: str = "waveform") -> Trial:
        """The trial of a network.

        Args:
            model: The network.
            sounds: Clips (N,).
            takes: What the graph takes.
        """
        given, said = [], []
        for sound in sounds:
            x = frames(model, sound)
            ((z, out),) = model.judge([Window(0.0, 0.0, [x])])
            said.append({EMBEDDING: z, **values(model, out)})
            given.append(sound if takes == "waveform" else x.astype(np.float32))
        return cls(given, said)

    def differences(self, says: Says, ragged: bool) -> dict[str, float]:
        """Largest absolute difference by name.

        Args:
            says: The file that is tried.
            ragged: Whether clips of different lengths may share a batch.
        """
        found = [(truth, {k: v[0] for k, v in says(*batch([x])).items()})
                 for x, truth in zip(self.given, self.said, strict=True)]  # fmt: skip
        if ragged:
            together = says(*batch(self.given))
            found += [(truth, {k: v[i] for k, v in together.items()}) for i, truth in enumerate(self.said)]
        else:  # the same clip twice
            twice = says(*batch([self.given[0]] * 2))
            found += [(self.said[0], {k: v[i] for k, v in twice.items()}) for i in range(2)]
        # numpy's maximum, which is no number where one of them is none
        return {name: float(np.max([_far(one[name], truth[name]) for truth, one in found])) for name in self.said[0]}


def batch(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Clips (N,) or (T, F) as a batch (B, N) or (B, T, F), and their lengths (B,).

    What stands behind a clip's end is no zero, so that whoever looks at it is found out.
    """
    lengths = np.array([len(clip) for clip in clips], np.int64)
    x = np.full((len(clips), lengths.max(), *clips[0].shape[1:]), 0.5, np.float32)
    for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = clip
    return x, lengths


def values(model: Model, out: Said) -> Said:
    """Outputs (K,) by target as what they mean."""
    said = model.columns.split(model.values(out))
    return {
        name: np.array(one if model.columns.targets[name]["kind"] == "label" else one[0], np.float32)
        for name, one in said.items()
    }


def judged(file: str, differences: dict[str, float]) -> str:
    """A sentence about differences that are small enough.

    Raises:
        UserError: One is not.
    """
    name = max(differences, key=lambda key: np.nan_to_num(differences[key], nan=np.inf))
    if not differences[name] <= MOST:  # neither is one that is not a number
        raise UserError(
            f"{file}: does not say what the network says; its {name} is {differences[name]:.1e} off, more than "
            f"{MOST:g}; nothing was kept"
        )
    return ", ".join(f"{key} {value:.0e}" for key, value in differences.items())


def speed(
    model: Model, graph: Graph, says: Says, sound: np.ndarray, count: int = 8, tries: int = 2
) -> tuple[float, float]:
    """Clips in a second: of the file, and of the network with its front end as predictions have it.

    Args:
        model: The network.
        graph: What the file holds.
        says: The file.
        sound: A clip (N,).
        count: Clips of a batch.
        tries: Of which the faster one counts.
    """
    x = frames(model, sound)
    given = batch([sound if graph.takes == "waveform" else x.astype(np.float32)] * count)

    def network() -> None:
        hears = graph.takes == "waveform"
        model.judge([Window(0.0, 0.0, [frames(model, sound) if hears else x]) for _ in range(count)])

    def rate(work: Callable[[], object]) -> float:
        took = []
        for _ in range(tries):
            start = perf_counter()
            work()
            took.append(perf_counter() - start)
        return count / min(took)

    return rate(lambda: says(*given)), rate(network)


def _far(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, in units of what is compared where that is greater than 1."""
    return float(np.abs(one - other).max() / max(1.0, float(np.abs(other).max())))
