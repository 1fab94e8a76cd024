"""Page of the inspection of a clip.

The page is one file that asks nothing of any network. Every name from the data is escaped by the template; only the
figures, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from etude.data.collection import cut_bytes
from etude.evaluation.measure import replace_non_finite
from etude.files import os_errors, ownership
from etude.files.atomic import write_text
from etude.inspection import attribution, clip_axes, epochs, layers
from etude.inspection.clip_axes import Scene
from etude.inspection.clips import Clip, InspectedRun, cropped, known
from etude.inspection.hooks import Trace, trace
from etude.inspection.layers import fit, statistics
from etude.reports.html import data_uri, load_template
from etude.reports.learning_curves import panels
from etude.runs.folder import RunFolder
from etude.training.learner import Learner

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
COUNT, LARGEST = 8, 4000  # clips of the gallery; values of a small picture


@dataclass
class InspectOptions:
    """Options of an inspection.

    Args:
        folder: Folder of the run.
        clips: Ids of clips, and sound files.
        crop: First and last second (or beat); None for the whole clip.
        checkpoint: `best`, `last`, or a file.
        to: Folder of the pages; None for the run's folder.
    """

    folder: Path
    clips: list[str] = field(default_factory=list)
    crop: tuple[float, float] | None = None
    checkpoint: str = "best"
    to: Path | None = None


def inspect(wish: InspectOptions, command: str = "") -> list[Path]:
    """Write the page of every clip of the options.

    Args:
        wish: The options.
        command: Command line that the pages show.

    Returns:
        Paths of the pages.

    Raises:
        UserError: There is no such run or clip, or the folder cannot be written.
    """
    to = wish.to or wish.folder
    with os_errors.explain_errors(to, os_errors.FOLDER_REMEDY, f"to={to}"):
        ownership.open_folder(to)
    run = InspectedRun(wish.folder, wish.checkpoint)
    log.info("%s: epoch %d, %s", run.path, run.epoch, type(run.network.backbone).__name__)
    clips = [cropped(clip, run, wish.crop) for clip in run.clips(wish.clips)]
    ownership.check_names(to, [f"inspect_{stem(clip.id)}.{kind}" for clip in clips for kind in ("html", "json")])
    if not attribution.installed():
        log.warning(attribution.LACKING)
    return [_write(run, clip, to, command) for clip in clips]


def stem(clip: str) -> str:
    """Return a clip's id as part of a file's name; one that is changed by that gets a hash, which keeps it unique."""
    safe = cut_bytes(re.sub(r"[^\w.-]+", "-", clip).strip("-."), 100)
    return safe if safe and safe == clip else f"{safe}-{hashlib.sha256(clip.encode()).hexdigest()[:6]}".lstrip("-")


def gallery(run: InspectedRun, but: str) -> list[dict[str, Any]]:
    """Return random clips of the test part, always the same ones.

    Args:
        run: With its table of predictions; without one there is no gallery.
        but: Id of a clip that is shown already.

    Returns:
        Of each clip `id`, `picture` as a data URI, and `labels`: `name`, `true` class, and `top`, three classes with
        their probabilities.
    """
    table = run.predictions()
    names = [name for name, target in run.network.task.targets.items() if target.kind == "label"]
    if table is None or not names:
        return []
    needed = {f"{name}.{column}" for name in names for column in ["true", *_scores(run, name)]}
    if lacking := sorted(needed - set(table.columns)):
        name = run.files.predictions_path.name
        log.warning("%s: no other clips are shown: %s has no column %s", run.folder, name, lacking[0])
        return []
    rows = {str(clip): row for row, clip in enumerate(run.pack.index["id"])}
    test = table[(table["split"] == "test") & table["id"].astype(str).isin(rows) & (table["id"].astype(str) != but)]
    chosen = np.random.default_rng(0).permutation(len(test))[:COUNT]
    return [_small(test.iloc[int(k)], rows, names, run) for k in chosen]


def png(picture: np.ndarray) -> str:
    """Return values (h, w) in the colours of every spectrogram, as the data URI of a PNG."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, cmap=colormaps["magma"].resampled(64), format="png")
    return data_uri(buffer.getvalue(), "image/png")


def curves(run: RunFolder) -> list[tuple[str, str]]:
    """Draw the loss of the run by epoch."""
    drawn = panels(run.read_curves(), None)["panels"]
    return [("Loss by epoch: training dashed, validation a line.", svg) for title, svg in drawn if title == "loss"]


def _write(run: InspectedRun, clip: Clip, to: Path, command: str) -> Path:
    log.info("%s: %d frames", clip.id, clip.x.shape[1])
    network, captum = run.network, attribution.installed()
    scene = Scene(run.front, run.columns, clip.x.shape[1], clip.start)
    seen, base = trace(network, clip.x, clip.y), scene.even(clip.x[0].numpy())
    parts, cam = attribution.attributions(network, seen.x, base, seen.said, clip.y, scene) if captum else (None, None)
    attention = attribution.attention(network, seen.x, base, scene)
    log.info("Pictures of %d parts", len(seen.points))
    drawn = layers.draw(seen.points, scene)
    name, index, words = epochs.target(network, seen.said, clip.y)
    moments = epochs.moments(run.files, clip.x, clip.y, (name, index) if captum else None)
    rows = [statistics(point) for point in seen.points]
    about = {
        "clip": clip.id,
        "note": clip.note,
        "checkpoint": run.path.name,
        "epoch": run.epoch,
        "backbone": type(network.backbone).__name__,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "frames": clip.x.shape[1],
        "loss": seen.loss,
        "losses": seen.each,
        "assumed": seen.assumed,
        "outputs": _outputs(network, seen.said, seen.each, known(clip.y, network)),
        "layers": rows,
        "attributions": parts.numbers if parts else None,
        "grad_cam": cam.numbers if cam else None,
        "attention": attention.numbers,
        "epochs": epochs.numbers(moments),
    }
    page = load_template("inspect.html.j2").render(
        **{**about, "layers": rows, "command": command, "run": run.folder.resolve().name, "scene": scene},
        words=clip.words,
        lacking=None if captum else attribution.LACKING,
        steps=attribution.STEPS,
        inputs=_inputs(clip, seen, scene),
        parts=parts,
        cam=cam,
        rollout=attention,
        drawn=drawn,
        strip=epochs.draw(moments, scene, words) if len(moments) > 1 else [],
        moments=epochs.words(moments),
        curves=curves(run.files),
        gallery=gallery(run, clip.id),
    )
    path = to / f"inspect_{stem(clip.id)}.html"
    with os_errors.explain_errors(to, os_errors.FOLDER_REMEDY, f"to={to}"):
        write_text(
            path.with_name(f"{path.stem}.json"),
            json.dumps(replace_non_finite(about), indent=1, ensure_ascii=False) + "\n",
        )
        return write_text(path, page)


def _outputs(
    network: Learner, predictions: dict[str, Tensor], losses: dict[str, float], true: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return prediction and true value of each target: three classes with their probabilities, or a value."""
    found = []
    for name, target in network.task.targets.items():
        values = predictions[name].reshape(-1).tolist()
        row: dict[str, Any] = {"name": name, "kind": target.kind, "true": true[name], "loss": losses.get(name)}
        if target.kind == "label":
            every = dict(zip(map(str, target.classes), values, strict=True))
            top = sorted(every.items(), key=lambda pair: -pair[1])[:3]
            row |= {"probabilities": every, "top": [{"class": key, "probability": value} for key, value in top]}
        else:
            row |= {"value": values[0], "low": target.low, "high": target.high}
        found.append(row)
    return found


def _inputs(clip: Clip, seen: Trace, scene: Scene) -> list[tuple[str, str]]:
    """Draw the frames as they are, as the network gets them, and the gradient of the loss by these."""
    unit = scene.front.unit if scene.view.start == 0 else ""
    raw = clip_axes.large("input-raw", f"Frames of {clip.id}.", scene, scene.even(clip.x[0].numpy()), unit, magma=True)
    x = clip_axes.large("input", f"Standardised frames of {clip.id}.", scene, seen.x[0].double().numpy())
    chroma = ", with chroma from 0 to 1 above" if scene.view.start < scene.front.n_mels < scene.view.stop else ""
    found = [
        (f"The clip, as the front end hears it{chroma}." if scene.sound else "The image.", raw),
        ("What goes in: each bin in standard deviations from its mean over the training part.", x),
    ]
    if (gradient := seen.points[0].gradient) is not None:
        drawn = clip_axes.large("input-gradient", "Gradient of the loss.", scene, gradient[0].double().numpy())
        found.append(("Gradient of the loss by what goes in.", drawn))
    return found


def _scores(run: InspectedRun, name: str) -> list[str]:
    """Return the columns of a label's probabilities, without the label's name."""
    return [f"score.{one}" for one in run.network.task.targets[name].classes]


def _small(said: pd.Series, rows: dict[str, int], names: list[str], run: InspectedRun) -> dict[str, Any]:
    clip = str(said["id"])
    frames = np.asarray(run.pack.clip(rows[clip])[:, run.columns], np.float32)
    scene = Scene(run.front, run.columns, len(frames))
    labels = []
    for name in names:
        scores = ((column.removeprefix("score."), float(said[f"{name}.{column}"])) for column in _scores(run, name))
        top = sorted(scores, key=lambda pair: -pair[1])[:3]
        true = said[f"{name}.true"]
        labels.append({"name": name, "true": None if true is None or true != true else str(true), "top": top})
    return {"id": clip, "picture": png(scene.upright(fit(scene.even(frames), LARGEST))), "labels": labels}
