"""Prediction of an uploaded audio file within limits."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from etude.audio.formats.ffmpeg import CONTAINERS
from etude.errors import one_line_message
from etude.evaluation.formatting import capitalise_first, format_duration
from etude.inference import engine
from etude.inference.engine import FilePrediction, WindowedFile, load_windows
from etude.inference.figure import build_plots, create_preview, format_clock
from etude.inference.model import Model, PredictionColumns
from etude.inference.page import file_section, tick_positions
from etude.inference.windows import WindowPlan
from etude.reports.html import load_template

log = logging.getLogger(__name__)
MAX_BARS = 10  # for the classes of a label
MB = 1 << 20  # bytes, as in the limit of gradio in the browser
FFPROBE_TIMEOUT = 20  # seconds
TEXT_BYTES = 512  # number of bytes that are read to detect text
BATCH = 32  # windows in a batch
GONE = "This audio file is no longer stored; upload it again."


@dataclass(frozen=True)
class UploadLimits:
    """Limits of an audio file.

    Args:
        megabytes: Maximum size in MB.
        seconds: Maximum length in seconds.
    """

    megabytes: float
    seconds: float

    @property
    def text(self) -> str:
        """Both limits as text."""
        return f"up to {self.megabytes:g} MB and {format_duration(self.seconds).removesuffix(' 00 s')}"

    def refusal_reason(self, path: Path) -> str:
        """Return the reason to refuse a file before it is decoded, or "" if it is accepted."""
        try:
            size = path.stat().st_size
        except OSError:
            return GONE
        if not size:
            return "This file is empty (0 bytes)."
        if size > self.megabytes * MB:
            return f"This file has {size / MB:.1f} MB; this page accepts {self.text}."
        if is_text(path):
            return "This file is text, not audio."
        return self.length_reason(read_duration(path) or 0.0)

    def length_reason(self, seconds: float) -> str:
        """Return the reason to refuse audio of a length, or "" if it is accepted."""
        if seconds <= self.seconds:
            return ""
        return f"This audio file is {format_duration(seconds)} long; this page accepts {self.text}."


class RefusedAudioError(Exception):
    """Reason why an audio file cannot be predicted, as one sentence for the page."""


@dataclass
class PredictionResult:
    """Prediction for an audio file, and its windows."""

    prediction: FilePrediction
    file: WindowedFile

    def clearest_window(self, columns: PredictionColumns) -> int:
        """Return the index of the window that best represents the prediction for the file.

        The first target is used. For a label, this is the window with the highest probability of the predicted class.
        For a scalar, it is the window whose value is furthest from the middle of the range.
        """
        name, spec = next(iter(columns.targets.items()))

        def clarity(values: list[float] | None) -> float:
            if values is None:  # silent
                return -1.0
            window = columns.split_by_target(values)[name]
            file = columns.split_by_target(self.prediction.values or [])[name]
            if spec["kind"] != "scalar":
                return float(window[max(range(len(file)), key=file.__getitem__)])
            return abs(float(window[0]) - (spec["low"] + spec["high"]) / 2)

        clarities = [clarity(values) for *_, values in self.prediction.windows]
        return max(range(len(clarities)), key=clarities.__getitem__)


class Predictor:
    """Predictor of single audio files.

    Args:
        model: The network.
        plan: Window plan of the network.
        limits: Limits of an audio file.
    """

    def __init__(self, model: Model, plan: WindowPlan, limits: UploadLimits) -> None:
        self.model, self.plan, self.limits = model, plan, limits
        self._cached = lru_cache(maxsize=4)(self._predict)  # several sections of the page use the same result

    def predict(self, path: Path) -> PredictionResult:
        """Predict an audio file.

        Raises:
            RefusedAudioError: The file is too large, too long, silent, empty, or not audio.
        """
        if reason := self.limits.refusal_reason(path):
            raise RefusedAudioError(reason)
        return self._cached(path, path.stat().st_mtime_ns)

    def _predict(self, path: Path, modified: int) -> PredictionResult:
        file = load_windows((path, self.plan), None)
        if reason := self.limits.length_reason(file.seconds):
            raise RefusedAudioError(reason)
        windows = [(window, list(window.crops)) for window in file.windows]
        try:
            (prediction,) = engine.predict_windows(self.model, [file], BATCH)
        except Exception as error:  # such as exhausted GPU memory; the page continues
            log.warning("%s: the network failed", path.name, exc_info=True)
            message = one_line_message(error, 200)
            raise RefusedAudioError(f"The network failed on this audio file: {message}") from error
        if prediction.reason:
            raise RefusedAudioError(f"This audio file cannot be used: it {_predicate(prediction.reason)}.")
        for window, crops in windows:
            window.crops = crops  # the prediction removed them
        return PredictionResult(prediction, file)

    def section(self, result: PredictionResult, name: str) -> str:
        """Return the section of the page with the prediction for an audio file as HTML.

        Args:
            result: The prediction.
            name: Name of the audio file.
        """
        prediction, columns, front = result.prediction, self.model.columns, self.model.front
        preview = create_preview((prediction.path, front))
        plots = build_plots(prediction, columns) if len(prediction.windows) > 1 else []  # over time
        file = file_section(prediction, preview, plots, columns, tick_positions(front)) | {"name": name, "folder": ""}
        return load_template("demo_prediction.html.j2").render(file=file, bars=build_bars(prediction, columns))


def build_bars(prediction: FilePrediction, columns: PredictionColumns) -> list[dict[str, Any]]:
    """Build a bar for each class of a label, in descending order of probability, and for each scalar in its range.

    Returns:
        For each group of bars:

        - `title`
        - `rows`: `name`, `value`, `share` (length of the bar as a fraction), and `range` for a scalar
        - `others`: number of classes without a bar, and the sum of their probabilities
    """
    values = columns.split_by_target(prediction.values or [])
    groups: list[dict[str, Any]] = []
    scalars: list[dict[str, Any]] = []
    for name, spec in columns.targets.items():
        if spec["kind"] == "scalar":
            low, high, value = float(spec["low"]), float(spec["high"]), float(values[name][0])
            share = (min(max(value, low), high) - low) / ((high - low) or 1.0)
            scalars.append({"name": name, "value": value, "share": share, "range": (low, high)})
            continue
        ranked = sorted(zip(spec["classes"], values[name], strict=True), key=lambda pair: -pair[1])
        rows = [{"name": label, "value": share, "share": share} for label, share in ranked[:MAX_BARS]]
        others = [share for _, share in ranked[MAX_BARS:] if spec["kind"] == "label"]  # the sum for tags has no meaning
        unit = "class" if spec["kind"] == "label" else "tag"
        groups.append(
            {
                "title": f"{capitalise_first(name)}: probability of each {unit}",
                "rows": rows,
                "others": (len(others), sum(others)),
            }
        )
    if scalars:
        groups.append({"title": "Scalars", "rows": scalars, "others": (0, 0.0)})
    return groups


def window_labels(result: PredictionResult) -> list[str]:
    """Return the start and end of each window as text."""
    return [f"{format_clock(start)} – {format_clock(end)}" for start, end, _ in result.prediction.windows]


def is_text(path: Path) -> bool:
    """Return whether a file starts with text. A playlist is text, and a decoder would open the files in it."""
    with path.open("rb") as file:
        data = file.read(TEXT_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) - error.start > 3:  # otherwise the last character is incomplete
            return False
        text = data[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in text)


def read_duration(path: Path) -> float | None:
    """Read the length of an audio file in seconds without decoding it. A small file can contain days of silence.

    Returns:
        The length. None if neither libsndfile nor ffprobe can read it.
    """
    import soundfile

    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, RuntimeError):
        pass
    if shutil.which("ffprobe") is None:
        return None
    command = ["ffprobe", "-v", "error", "-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]
    try:
        completed = subprocess.run(
            [*command, "-show_entries", "format=duration", "-of", "json", f"file:{path}"],
            capture_output=True,
            timeout=FFPROBE_TIMEOUT,
            check=True,
        )
        return float(json.loads(completed.stdout)["format"]["duration"])
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return None


def _predicate(reason: str) -> str:
    """Return a reason that can follow the word "it", such as "is silent"."""
    text = reason.rstrip(".")
    return text if text.split(" ")[0] in ("is", "has", "contains", "cannot", "gives") else f"fails: {text}"
