"""Comparison of the outputs of an exported file with the outputs of the network."""

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
from etude.data.audio_files import SILENT
from etude.data.sources import demo
from etude.errors import UserError
from etude.export.graph import EMBEDDING, Graph, PredictFunction
from etude.inference import inputs
from etude.inference.model import Model
from etude.inference.windows import Window, WindowPlan
from etude.reports.clip_frames import clip_files
from etude.runs.folder import RunFolder

N_CLIPS, SHORTEST = 8, 0.3  # number of test clips, and length of the shortest as a share of a window
TOLERANCE = 1e-3  # of probabilities, values and embeddings; relative for magnitudes above 1
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class ParityCheck:
    """Test clips with the outputs of the network for these clips, as in predictions.

    Args:
        inputs: Input of the graph for each clip: samples (N,) or frames (T, F), float32.
        outputs: Outputs for each clip by name: embedding (D,), probabilities (K,) or a value ().
    """

    inputs: list[np.ndarray]
    outputs: list[Outputs]

    @classmethod
    def from_model(cls, model: Model, clips: Sequence[np.ndarray], input_name: str = "waveform") -> ParityCheck:
        """Compute the outputs of the network for some clips.

        Args:
            model: The network.
            clips: Samples of each clip (N,).
            input_name: Input of the graph, `waveform` or `frames`.
        """
        graph_inputs, outputs = [], []
        for samples in clips:
            frames = compute_frames(model, samples)
            ((z, out),) = model.predict([Window(0.0, 0.0, [frames])])
            outputs.append({EMBEDDING: z, **predicted_values(model, out)})
            graph_inputs.append(samples if input_name == "waveform" else frames.astype(np.float32))
        return cls(graph_inputs, outputs)

    def differences(self, predict: PredictFunction, variable_length: bool) -> dict[str, float]:
        """Return the largest absolute difference of each output.

        Each clip is predicted alone. All clips are then predicted in one batch, or the first clip twice if all clips of
        a batch must have the same length.

        Args:
            predict: Function that runs the exported file.
            variable_length: Whether clips of different lengths can share a batch.
        """
        pairs = [(expected, {name: value[0] for name, value in predict(*batch([x])).items()})
                 for x, expected in zip(self.inputs, self.outputs, strict=True)]  # fmt: skip
        if variable_length:
            together, expected_rows = predict(*batch(self.inputs)), self.outputs
        else:
            together, expected_rows = predict(*batch([self.inputs[0]] * 2)), [self.outputs[0]] * 2
        pairs += [
            (expected, {name: value[i] for name, value in together.items()}) for i, expected in enumerate(expected_rows)
        ]
        # the maximum of numpy is NaN if a difference is NaN
        return {
            name: float(np.max([_difference(actual[name], expected[name]) for expected, actual in pairs]))
            for name in self.outputs[0]
        }


def find_audio_files(run: RunFolder | None, named: list[str]) -> tuple[list[Path], str]:
    """Return audio files for the check, and a description of them.

    Args:
        run: The run folder; None for a checkpoint without a run.
        named: Files, folders and lists from `--check`.

    Raises:
        UserError: A file does not exist.
    """
    if named:
        return inputs.find_audio_files(named), "user-provided clips"
    if run is not None and (paths := _files_of_run(run)):
        return paths, "clips of the run's data"
    return [Path(path) for path in demo.collection().table["path"]], "Étude's demo clips"


def load_clips(paths: list[Path], front: FrontEnd, plan: WindowPlan, min_length: int) -> list[np.ndarray]:
    """Decode clips of different lengths, up to the length of a window.

    Args:
        paths: Audio files. Files at equal distances in this list are used.
        front: Front end of the network.
        plan: Plan with the length of a window.
        min_length: Minimum number of samples of a clip.

    Returns:
        N_CLIPS clips (N,), float32, at the sampling rate of the front end. No clip is silent. If there are too few
        files, several clips of different lengths are taken from one file.

    Raises:
        UserError: No file can be decoded, or all are silent or too short.
    """
    window = max(min_length, plan.samples if front.sync == "none" else 30 * front.rate)
    # twice as many as needed, because some files may not be decodable
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, 2 * N_CLIPS).astype(int))]
    decoded, reason = [], "all are silent or too short"
    for path in chosen:
        try:
            samples = decode(path, front.rate)[:window]
        except (DecodeError, OSError) as error:
            reason = str(error)
            continue
        if len(samples) >= min_length and np.abs(samples).max() >= SILENT:
            decoded.append(samples)
        if len(decoded) == N_CLIPS:
            break
    if not decoded:
        raise UserError(
            f"export: no clip can be used to check the exported files ({reason}); name some with --check <files>"
        )
    clips = []
    for i, share in enumerate(np.linspace(SHORTEST, 1, N_CLIPS)):
        samples = decoded[i % len(decoded)]
        clips.append(samples[: max(min_length, min(len(samples), round(share * len(samples))))])
    return clips


def compute_frames(model: Model, samples: np.ndarray) -> np.ndarray:
    """Compute frames (T, F), float16, from samples (N,), with the columns that the network uses in predictions.

    A network for images gets the log-mel spectrogram of the samples as an image.
    """
    if not model.front.reads_sound:
        samples = 1 + LogMelChroma().frames(samples) / LogMelChroma().top_db  # an image in [0, 1]
    return model.front.view(samples, tuple(model.network.recipe["columns"])).astype(np.float16)


def batch(clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pad clips (N,) or (T, F) to a batch (B, N) or (B, T, F), and return it with the lengths (B,).

    The padding is not zero. A graph therefore fails the check if its outputs depend on padding.
    """
    lengths = np.array([len(clip) for clip in clips], np.int64)
    x = np.full((len(clips), lengths.max(), *clips[0].shape[1:]), 0.5, np.float32)
    for row, clip in zip(x, clips, strict=True):
        row[: len(clip)] = clip
    return x, lengths


def predicted_values(model: Model, out: Outputs) -> Outputs:
    """Convert outputs (K,) by target to probabilities (K,) and values ()."""
    by_target = model.columns.split_by_target(model.values(out))
    return {
        name: np.array(values if model.columns.targets[name]["kind"] == "label" else values[0], np.float32)
        for name, values in by_target.items()
    }


def check_differences(file: str, differences: dict[str, float]) -> str:
    """Check that all differences are within the tolerance, and return them as text.

    Args:
        file: Name of the exported file.
        differences: Largest difference of each output.

    Raises:
        UserError: A difference exceeds the tolerance or is NaN.
    """
    name = max(differences, key=lambda key: np.nan_to_num(differences[key], nan=np.inf))
    if not differences[name] <= TOLERANCE:  # also true for NaN
        raise UserError(
            f"{file}: outputs differ from the outputs of the network: {name} by {differences[name]:.1e}, more than "
            f"{TOLERANCE:g}; no file was written"
        )
    return ", ".join(f"{key} {value:.0e}" for key, value in differences.items())


def measure_speed(
    model: Model, graph: Graph, predict: PredictFunction, samples: np.ndarray, batch_size: int = 8
) -> tuple[float, float]:
    """Measure clips per second of the file, and of the network with its front end as in predictions.

    Args:
        model: The network.
        graph: The exported graph.
        predict: Function that runs the exported file.
        samples: A clip (N,).
        batch_size: Number of clips of a batch.
    """
    frames = compute_frames(model, samples)
    from_waveform = graph.input_name == "waveform"
    graph_inputs = batch([samples if from_waveform else frames.astype(np.float32)] * batch_size)

    def predict_with_network() -> None:
        windows = [[compute_frames(model, samples) if from_waveform else frames] for _ in range(batch_size)]
        model.predict([Window(0.0, 0.0, crops) for crops in windows])

    def clips_per_second(work: Callable[[], object]) -> float:
        start = perf_counter()
        work()  # both were called before, by the parity check
        return batch_size / (perf_counter() - start)

    return clips_per_second(lambda: predict(*graph_inputs)), clips_per_second(predict_with_network)


def _files_of_run(run: RunFolder) -> list[Path]:
    """Return the audio files of the clips that a run predicted, test before validation. Missing files are left out."""
    try:
        table = run.predictions.sort_values("split", kind="stable")
        source = run.config["data"]["source"]
        instantiate.check_trusted(source)  # the config may be untrusted
        known = clip_files(instantiate.make(source))
        paths = [known[clip].path for clip in table["id"].astype(str) if clip in known and known[clip].is_audio]
    except Exception:  # the demo clips are used if the data of the run is not available, whatever the reason
        return []
    return [path for path in paths if path.is_file()]


def _difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference, divided by the largest expected magnitude if this exceeds 1."""
    return float(np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max())))
