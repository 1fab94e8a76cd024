"""Check that an exported file agrees with the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from etude.audio.decode import decode
from etude.audio.formats import DecodeError
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.config import instantiate
from etude.data.readers import SILENT
from etude.data.sources import demo
from etude.errors import UserError
from etude.export.formats import Says
from etude.export.graph import EMBEDDING, Graph
from etude.inference import inputs
from etude.inference.model import Model
from etude.inference.windows import Window, WindowPlan
from etude.reports.clip_frames import files
from etude.runs.folder import RunFolder

COUNT, SHORTEST = 8, 0.3  # clips, and the share of a window that the shortest of them is
MOST = 1e-3  # of probabilities, values in their range, and units of the embedding (of larger ones, of the largest)
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class ParityCheck:
    """Clips, and the outputs of the network for each, as in predictions.

    Args:
        inputs: Input of a graph for each clip: samples (N,) or frames (T, F), float32.
        outputs: By name, embedding (D,), probabilities (K,) or a value ().
    """

    inputs: list[np.ndarray]
    outputs: list[Outputs]

    @classmethod
    def of(cls, model: Model, sounds: Sequence[np.ndarray], takes: str = "waveform") -> ParityCheck:
        """Return the check of a network.

        Args:
            model: The network.
            sounds: Clips (N,).
            takes: What the graph takes.
        """
        given, outputs = [], []
        for sound in sounds:
            x = frames(model, sound)
            ((z, out),) = model.predict([Window(0.0, 0.0, [x])])
            outputs.append({EMBEDDING: z, **values(model, out)})
            given.append(sound if takes == "waveform" else x.astype(np.float32))
        return cls(given, outputs)

    def differences(self, says: Says, ragged: bool) -> dict[str, float]:
        """Return the largest absolute difference by name.

        Args:
            says: The exported file.
            ragged: Whether clips of different lengths may share a batch.
        """
        found = [(truth, {k: v[0] for k, v in says(*batch([x])).items()})
                 for x, truth in zip(self.inputs, self.outputs, strict=True)]  # fmt: skip
        if ragged:
            together = says(*batch(self.inputs))
            found += [(truth, {k: v[i] for k, v in together.items()}) for i, truth in enumerate(self.outputs)]
        else:  # the same clip twice
            twice = says(*batch([self.inputs[0]] * 2))
            found += [(self.outputs[0], {k: v[i] for k, v in twice.items()}) for i in range(2)]
        # numpy's maximum, which is no number where one of them is none
        return {name: float(np.max([_far(one[name], truth[name]) for truth, one in found])) for name in self.outputs[0]}


def find_sounds(run: RunFolder | None, named: list[str]) -> tuple[list[Path], str]:
    """Return sound files for the check, and their origin as text.

    Args:
        run: The run's folder; None for a checkpoint alone.
        named: Files, folders and lists that were named.

    Raises:
        UserError: There is no such file.
    """
    if named:
        return inputs.files(named), "clips that were named"
    if run is not None and (own := _own(run)):
        return own, "clips of the run's data"
    return [Path(path) for path in demo.collection().table["path"]], "clips of the embedded music"


def cut_sounds(paths: list[Path], front: FrontEnd, plan: WindowPlan, least: int) -> list[np.ndarray]:
    """Return pieces of sound of different lengths, up to a window.

    Args:
        paths: Sound files, taken evenly from the first to the last.
        front: The front end.
        plan: How long a window is.
        least: Samples that a piece must have.

    Returns:
        At least COUNT pieces (N,), float32, at the front end's rate, none of them silent.

    Raises:
        UserError: No file gives any.
    """
    window = max(least, plan.samples if front.sync == "none" else 30 * front.rate)
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, 2 * COUNT).astype(int))]  # some may be broken
    sounds, reason = [], "they are silent, or too short"
    for path in chosen:
        try:
            sound = decode(path, front.rate)[:window]
        except (DecodeError, OSError) as error:
            reason = str(error)
            continue
        if len(sound) >= least and np.abs(sound).max() >= SILENT:
            sounds.append(sound)
        if len(sounds) == COUNT:
            break
    if not sounds:
        raise UserError(f"there is no clip to try the export on ({reason}); name some with check=<files>")
    shares = np.linspace(SHORTEST, 1, COUNT)
    return [
        (sound := sounds[i % len(sounds)])[: max(least, min(len(sound), round(share * len(sound))))]
        for i, share in enumerate(shares)
    ]


def frames(model: Model, sound: np.ndarray) -> np.ndarray:
    """Return frames (T, F) float16 of the network's view, as in predictions; for images, of a picture of the sound."""
    if not model.front.reads_sound:
        sound = 1 + LogMelChroma().frames(sound) / LogMelChroma().top_db  # a picture of the sound, in [0, 1]
    return model.front.view(sound, tuple(model.network.recipe["columns"])).astype(np.float16)


def batch(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return clips (N,) or (T, F) as a batch (B, N) or (B, T, F), and their lengths (B,).

    Padding is not zero, so that a graph that reads it is found out.
    """
    lengths = np.array([len(clip) for clip in clips], np.int64)
    x = np.full((len(clips), lengths.max(), *clips[0].shape[1:]), 0.5, np.float32)
    for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = clip
    return x, lengths


def values(model: Model, out: Outputs) -> Outputs:
    """Return outputs (K,) by target as probabilities and values."""
    by_target = model.columns.split(model.values(out))
    return {
        name: np.array(one if model.columns.targets[name]["kind"] == "label" else one[0], np.float32)
        for name, one in by_target.items()
    }


def agreement_text(file: str, differences: dict[str, float]) -> str:
    """Return differences as text, if they are small enough.

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
    """Measure clips per second of the file, and of the network with its front end as in predictions.

    Args:
        model: The network.
        graph: The graph of the file.
        says: The exported file.
        sound: A clip (N,).
        count: Clips of a batch.
        tries: Of which the faster one counts.
    """
    x = frames(model, sound)
    given = batch([sound if graph.takes == "waveform" else x.astype(np.float32)] * count)

    def network() -> None:
        hears = graph.takes == "waveform"
        model.predict([Window(0.0, 0.0, [frames(model, sound) if hears else x]) for _ in range(count)])

    def rate(work: Callable[[], object]) -> float:
        took = []
        for _ in range(tries):
            start = perf_counter()
            work()
            took.append(perf_counter() - start)
        return count / min(took)

    return rate(lambda: says(*given)), rate(network)


def _own(run: RunFolder) -> list[Path]:
    """Return files of the clips that a run predicted, test before validation; none where they are missing."""
    try:
        table = run.predictions.sort_values("split", kind="stable")
        source = run.config["data"]["source"]
        instantiate.check_trusted(source)  # a run folder may come from a stranger
        known = files(instantiate.make(source))
        found = [known[clip].path for clip in table["id"].astype(str) if clip in known and known[clip].is_sound]
    except Exception:  # whatever is missing of a run that came from elsewhere, embedded clips are as good for this
        return []
    return [path for path in found if path.is_file()]


def _far(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference, relative to the compared values where these exceed 1."""
    return float(np.abs(one - other).max() / max(1.0, float(np.abs(other).max())))
