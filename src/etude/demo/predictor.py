"""Prediction of a sound of the demo page, within limits."""

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
from etude.evaluation.formatting import capital, duration
from etude.inference import engine
from etude.inference.engine import FilePrediction, WindowedFile, load_windows
from etude.inference.figure import clock, plots, preview
from etude.inference.model import Model, PredictionColumns
from etude.inference.page import file_section, hertz
from etude.inference.windows import WindowPlan
from etude.reports.html import load_template

log = logging.getLogger(__name__)
CLASSES = 10  # of a label that have a bar
MB = 1 << 20  # bytes, as the browser's part of gradio counts them
PATIENCE = 20  # seconds that ffprobe gets to find a length
HEAD = 512  # bytes that are read to recognise a text
BATCH = 32  # windows in a batch


@dataclass(frozen=True)
class UploadLimits:
    """Limits of a sound.

    Args:
        megabytes: The largest file, in MB.
        seconds: The longest sound, in s.
    """

    megabytes: float
    seconds: float

    @property
    def words(self) -> str:
        """Both limits as text."""
        return f"up to {self.megabytes:g} MB and {duration(self.seconds).removesuffix(' 00 s')}"

    def refuse(self, path: Path) -> str:
        """Return why a file is refused before it is decoded; "" where it is accepted."""
        try:
            size = path.stat().st_size
        except OSError:
            return "This sound is no longer here; drop it once more."
        if not size:
            return "This file is empty, 0 bytes."
        if size > self.megabytes * MB:
            return f"This file has {size / MB:.1f} MB; this page takes {self.words}."
        if is_text(path):
            return "This file is a text, and no sound."
        return self.too_long(seconds_of(path) or 0.0)

    def too_long(self, seconds: float) -> str:
        """Return why a sound is too long; "" where it is not."""
        if seconds <= self.seconds:
            return ""
        return f"This sound is {duration(seconds)} long; this page takes {self.words}."


class RefusedSound(Exception):
    """Reason why a sound cannot be predicted, as one sentence for the page."""


@dataclass
class PredictionResult:
    """Prediction of a sound, with its windows."""

    prediction: FilePrediction
    file: WindowedFile

    def decisive_window(self, columns: PredictionColumns) -> int:
        """Return the index of the window that agrees most clearly with the prediction of the whole sound.

        Of a label it is the one in which the class of the whole is most probable, of a scalar the furthest from the
        middle of its range; the first target counts.
        """
        name, spec = next(iter(columns.targets.items()))

        def clarity(values: list[float] | None) -> float:
            if values is None:  # silent
                return -1.0
            window, whole = columns.split(values)[name], columns.split(self.prediction.values or [])[name]
            if spec["kind"] == "label":
                return float(window[max(range(len(whole)), key=whole.__getitem__)])
            return abs(float(window[0]) - (spec["low"] + spec["high"]) / 2)

        every = [clarity(values) for *_, values in self.prediction.windows]
        return max(range(len(every)), key=every.__getitem__)


class Predictor:
    """Predictor of sounds, one at a time.

    Args:
        model: The network.
        plan: How sounds are cut for it.
        limits: Limits of a sound.
    """

    def __init__(self, model: Model, plan: WindowPlan, limits: UploadLimits) -> None:
        self.model, self.plan, self.limits = model, plan, limits
        self._cached = lru_cache(maxsize=4)(self._predict)  # the last sounds, of which several things are shown

    def predict(self, path: Path) -> PredictionResult:
        """Predict a sound.

        Raises:
            RefusedSound: It is too large or too long, silent, empty, or no sound.
        """
        if why := self.limits.refuse(path):
            raise RefusedSound(why)
        return self._cached(path, path.stat().st_mtime_ns)

    def _predict(self, path: Path, modified: int) -> PredictionResult:
        file = load_windows((path, self.plan), None)
        if why := self.limits.too_long(file.seconds):
            raise RefusedSound(why)
        windows = [(window, list(window.crops)) for window in file.windows]
        try:
            (prediction,) = engine.predict_windows(self.model, [file], BATCH)
        except Exception as error:  # the memory of a GPU may be full; the page goes on
            log.warning("%s: the network failed", path.name, exc_info=True)
            raise RefusedSound(f"The network failed on this sound: {one_line_message(error, 200)}") from error
        if prediction.reason:
            raise RefusedSound(f"This sound cannot be heard: it {_verb(prediction.reason)}.")
        for window, crops in windows:
            window.crops = crops  # which prediction drops
        return PredictionResult(prediction, file)

    def section(self, result: PredictionResult, name: str) -> str:
        """Return the prediction of a sound as a section of the page.

        Args:
            result: The prediction.
            name: Name of the sound.
        """
        prediction, columns = result.prediction, self.model.columns
        shown = preview((prediction.path, self.model.front))
        drawn = plots(prediction, columns) if len(prediction.windows) > 1 else []  # one window has no lines over time
        file = file_section(prediction, shown, drawn, columns, hertz(self.model.front)) | {"name": name, "folder": ""}
        return load_template("demo_heard.html.j2").render(file=file, bars=bars(prediction, columns))


def bars(prediction: FilePrediction, columns: PredictionColumns) -> list[dict[str, Any]]:
    """Return a bar for each class of a label, the most probable first, and for each scalar in its range.

    Returns:
        Groups with `title`; `rows` of `name`, `value`, `share` of the bar, and of a scalar the `ends` of its range; and
        `rest`, how many classes have no bar, with the sum of their probabilities.
    """
    values = columns.split(prediction.values or [])
    found: list[dict[str, Any]] = []
    scalars: list[dict[str, Any]] = []
    for name, spec in columns.targets.items():
        if spec["kind"] == "scalar":
            low, high, value = float(spec["low"]), float(spec["high"]), float(values[name][0])
            share = (min(max(value, low), high) - low) / ((high - low) or 1.0)
            scalars.append({"name": name, "value": value, "share": share, "ends": (low, high)})
            continue
        ranked = sorted(zip(spec["classes"], values[name], strict=True), key=lambda pair: -pair[1])
        rows = [{"name": one, "value": share, "share": share} for one, share in ranked[:CLASSES]]
        rest = [share for _, share in ranked[CLASSES:]]
        found.append(
            {"title": f"{capital(name)}: probability of each class", "rows": rows, "rest": (len(rest), sum(rest))}
        )
    if scalars:
        found.append({"title": "On its scale", "rows": scalars, "rest": (0, 0.0)})
    return found


def window_labels(result: PredictionResult) -> list[str]:
    """Return the times of the windows of a sound."""
    return [f"{clock(start)} – {clock(end)}" for start, end, _ in result.prediction.windows]


def is_text(path: Path) -> bool:
    """Return whether a file begins as a text; playlists are texts, by which a decoder would open other files."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    try:
        words = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3:  # else a character was cut in two
            return False
        words = head[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in words)


def seconds_of(path: Path) -> float | None:
    """Read the length of a sound in s without decoding it: a small file may hold days of silence.

    Returns:
        Its length; None where nothing that is installed can read it.
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
        asked = subprocess.run(
            [*command, "-show_entries", "format=duration", "-of", "json", f"file:{path}"],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        return float(json.loads(asked.stdout)["format"]["duration"])
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return None


def _verb(reason: str) -> str:
    """Return a reason as the end of a sentence that begins with "it"."""
    text = reason.rstrip(".")
    return text if text.split(" ")[0] in ("is", "has", "holds", "cannot", "gives") else f"fails: {text}"
