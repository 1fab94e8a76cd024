"""HTML page and JSON file of the inspection of a clip.

The page is a single file without external resources. The template escapes all names from the data. Only figures, which
escape their own text, are marked as safe.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from etude.data.collection import cut_bytes
from etude.errors import UserError
from etude.evaluation.formatting import format_duration
from etude.evaluation.measure import replace_non_finite
from etude.files import os_errors, ownership
from etude.files.atomic import write_text
from etude.inspection.attribution import (
    CAPTUM_MISSING,
    STEPS,
    AttributionFigures,
    draw_attention_rollout,
    draw_attributions,
    explained_outputs,
    is_captum_installed,
)
from etude.inspection.clip_axes import ClipAxes, draw_image
from etude.inspection.clips import Clip, InspectedRun, crop_clip, decode_targets
from etude.inspection.epochs import (
    checkpoints_by_epoch,
    describe_checkpoints,
    draw_epochs,
    load_snapshots,
    numbers_by_epoch,
    output_to_explain,
)
from etude.inspection.hooks import Trace, trace
from etude.inspection.layers import average_to_size, draw_layers, statistics
from etude.reports.html import data_uri, load_template
from etude.reports.run_figures import draw_learning_curves
from etude.runs.folder import RunFolder
from etude.training.network import Network

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
GALLERY_CLIPS, THUMBNAIL_VALUES = 8, 4000
LONG_SECONDS = 10.0  # estimated time of attributions that is logged


@dataclass
class InspectOptions:
    """Options of `etude inspect`.

    Args:
        run: A run folder.
        clips: Ids of clips, and audio files.
        crop: Start and end in seconds (or beats); None for the middle of a long clip, see `crop_clip`.
        checkpoint: `best`, `last`, or the path of a checkpoint.
        out: Folder of the pages; None for the run folder.
    """

    run: Path
    clips: list[str] = field(default_factory=list)
    crop: tuple[float, float] | None = None
    checkpoint: str = "best"
    out: Path | None = None


def inspect(options: InspectOptions, command: str = "") -> list[Path]:
    """Write the page of each clip.

    Args:
        options: Options of the inspection.
        command: Command that the pages show.

    Returns:
        Paths of the pages.

    Raises:
        UserError: The run or a clip does not exist, or the folder cannot be written to.
    """
    out = options.out or options.run
    with os_errors.explain_errors(out, os_errors.FOLDER_REMEDY, f"--out {out}"):
        ownership.open_folder(out)
    run = InspectedRun(options.run, options.checkpoint)
    if run.network.recipe.get("members"):
        raise UserError(f"{options.run}: is an ensemble; inspect the run of one of its members")
    log.info("%s: epoch %d, %s", run.path, run.epoch, type(run.network.backbone).__name__)
    clips = [crop_clip(clip, run, options.crop) for clip in run.find_clips(options.clips)]
    names = [f"inspect_{file_stem(clip.id)}{suffix}" for clip in clips for suffix in (".html", ".json")]
    ownership.check_names(out, names)
    if not is_captum_installed():
        log.warning(CAPTUM_MISSING)
    return [_write_page(run, clip, out, command) for clip in clips]


def file_stem(clip: str) -> str:
    """Return a clip's id as a part of a file name. If the id must be changed, a hash makes the name unique."""
    safe = cut_bytes(re.sub(r"[^\w.-]+", "-", clip).strip("-."), 100)
    return safe if safe and safe == clip else f"{safe}-{hashlib.sha256(clip.encode()).hexdigest()[:6]}".lstrip("-")


def gallery(run: InspectedRun, excluded: str) -> list[dict[str, Any]]:
    """Return random clips of the test split, the same in each call.

    Args:
        run: The run. Without predictions or labels, the gallery is empty.
        excluded: Id of the clip that the page shows.

    Returns:
        For each clip `id`, `image` as a data URI, and `labels` with `name`, `true` class, and `top`, the three most
        probable classes with their probabilities.
    """
    table = run.predictions()
    names = [name for name, target in run.network.task.targets.items() if target.kind == "label"]
    if table is None or not names:
        return []
    required = {f"{name}.{column}" for name in names for column in ["true", *_score_columns(run, name)]}
    if missing := sorted(required - set(table.columns)):
        log.warning(
            "%s: %s has no column %s; no other clips are shown", run.folder, run.files.predictions_path.name, missing[0]
        )
        return []
    rows = {str(clip): row for row, clip in enumerate(run.pack.index["id"])}
    ids = table["id"].astype(str)
    test = table[(table["split"] == "test") & ids.isin(rows) & (ids != excluded)]
    chosen = np.random.default_rng(0).permutation(len(test))[:GALLERY_CLIPS]
    return [_gallery_entry(test.iloc[int(k)], rows, names, run) for k in chosen]


def png_uri(image: np.ndarray) -> str:
    """Return an image (h, w) in the colours of spectrograms, as the data URI of a PNG file."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, cmap=colormaps["magma"].resampled(64), format="png")
    return data_uri(buffer.getvalue(), "image/png")


def loss_curves(run: RunFolder) -> list[tuple[str, str]]:
    """Draw the loss of the run by epoch."""
    drawn = draw_learning_curves(run.read_curves(), None)["panels"]
    caption = "Loss by epoch: training (dashed) and validation (solid)."
    return [(caption, draw_svg) for title, draw_svg in drawn if title == "loss"]


def _write_page(run: InspectedRun, clip: Clip, out: Path, command: str) -> Path:
    """Write the page and the JSON file of a clip, and return the path of the page."""
    log.info("%s: %d frames", clip.id, clip.x.shape[1])
    network, has_captum = run.network, is_captum_installed()
    clip_axes = ClipAxes(run.front, run.columns, clip.x.shape[1], clip.start)
    start = time.monotonic()
    result, frames = trace(network, clip.x, clip.y), clip_axes.rescale_chroma(clip.x[0].numpy())
    if has_captum:
        n_outputs = len(explained_outputs(network, result.predictions, clip.y)) + len(checkpoints_by_epoch(run.files))
        log_estimate(n_outputs * STEPS * (time.monotonic() - start))
    gradients: AttributionFigures | None = None
    cam: AttributionFigures | None = None
    if has_captum:
        gradients, cam = draw_attributions(network, result.x, frames, result.predictions, clip.y, clip_axes)
    attention = draw_attention_rollout(network, result.x, frames, clip_axes)
    log.info("Figures of %d modules", len(result.records))
    modules = draw_layers(result.records, clip_axes)
    name, index, explained = output_to_explain(network, result.predictions, clip.y)
    snapshots = load_snapshots(run.files, clip.x, clip.y, (name, index) if has_captum else None)
    content = {
        "clip": clip.id,
        "note": clip.note,
        "checkpoint": run.path.name,
        "epoch": run.epoch,
        "backbone": type(network.backbone).__name__,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "frames": clip.x.shape[1],
        "loss": result.loss,
        "losses": result.losses,
        "unlabelled": result.unlabelled,
        "outputs": _outputs(network, result.predictions, result.losses, decode_targets(clip.y, network)),
        "layers": [statistics(record) for record in result.records],
        "attributions": gradients.numbers if gradients else None,
        "grad_cam": cam.numbers if cam else None,
        "attention": attention.numbers,
        "epochs": numbers_by_epoch(snapshots),
    }
    page = load_template("inspect.html.j2").render(
        **content,
        command=command,
        run=run.folder.resolve().name,
        clip_axes=clip_axes,
        details=clip.details,
        captum_missing="" if has_captum else CAPTUM_MISSING,
        steps=STEPS,
        inputs=_draw_inputs(clip, result, clip_axes),
        gradients=gradients,
        cam=cam,
        rollout=attention,
        modules=modules,
        epoch_figures=draw_epochs(snapshots, clip_axes, explained) if len(snapshots) > 1 else [],
        checkpoints=describe_checkpoints(snapshots),
        curves=loss_curves(run.files),
        gallery=gallery(run, clip.id),
    )
    path = out / f"inspect_{file_stem(clip.id)}.html"
    with os_errors.explain_errors(out, os_errors.FOLDER_REMEDY, f"--out {out}"):
        text = json.dumps(replace_non_finite(content), indent=1, ensure_ascii=False)
        write_text(path.with_name(f"{path.stem}.json"), f"{text}\n")
        return write_text(path, page)


def log_estimate(seconds: float) -> None:
    """Log the estimated time of the attributions if it is long.

    Args:
        seconds: Upper bound, the time of a traced forward and backward pass, multiplied by the number of passes.
    """
    if seconds > LONG_SECONDS:
        log.info("attributions take up to %s on this machine; a shorter --crop takes less", format_duration(seconds))


def _outputs(
    network: Network, predictions: dict[str, Tensor], losses: dict[str, float], true: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return prediction and true value of each target. A label has all probabilities and the top three classes."""
    outputs = []
    for name, target in network.task.targets.items():
        values = predictions[name].reshape(-1).tolist()
        output: dict[str, Any] = {"name": name, "kind": target.kind, "true": true[name], "loss": losses.get(name)}
        if target.kind == "label":
            probabilities = dict(zip(map(str, target.classes), values, strict=True))
            top = sorted(probabilities.items(), key=lambda pair: -pair[1])[:3]
            output |= {
                "probabilities": probabilities,
                "top": [{"class": key, "probability": value} for key, value in top],
            }
        else:
            output |= {"value": values[0], "low": target.low, "high": target.high}
        outputs.append(output)
    return outputs


def _draw_inputs(clip: Clip, result: Trace, clip_axes: ClipAxes) -> list[tuple[str, str]]:
    """Draw the frames, the standardised frames, and the gradient with respect to the standardised frames."""
    frames, unit = clip_axes.rescale_chroma(clip.x[0].numpy()), clip_axes.magnitude_unit
    raw = draw_image("input-raw", f"Frames of {clip.id}.", clip_axes, frames, unit, magma=True)
    standardised = draw_image("input", f"Standardised frames of {clip.id}.", clip_axes, result.x[0].double().numpy())
    has_both = clip_axes.columns.start < clip_axes.front.n_mels < clip_axes.columns.stop
    chroma = " The upper part is chroma, from 0 to 1." if has_both else ""
    figures = [
        (f"Frames from the front end.{chroma}" if clip_axes.is_audio else "The image.", raw),
        ("Standardised frames: each bin minus its mean over the training split, in standard deviations.", standardised),
    ]
    if (gradient := result.records[0].gradient) is not None:
        values = gradient[0].double().numpy()
        caption = "Gradient of the loss with respect to the standardised frames."
        figures.append((caption, draw_image("input-gradient", caption, clip_axes, values)))
    return figures


def _score_columns(run: InspectedRun, name: str) -> list[str]:
    """Return the columns of the probabilities of a label, without the name of the label."""
    return [f"score.{key}" for key in run.network.task.targets[name].classes]


def _gallery_entry(prediction: pd.Series, rows: dict[str, int], names: list[str], run: InspectedRun) -> dict[str, Any]:
    """Return the id, image and predicted labels of a clip in the gallery."""
    clip = str(prediction["id"])
    frames = np.asarray(run.pack.clip(rows[clip])[:, run.columns], np.float32)
    clip_axes = ClipAxes(run.front, run.columns, len(frames))
    labels = []
    for name in names:
        columns = _score_columns(run, name)
        scores = ((column.removeprefix("score."), float(prediction[f"{name}.{column}"])) for column in columns)
        top = sorted(scores, key=lambda pair: -pair[1])[:3]
        true = prediction[f"{name}.true"]
        labels.append({"name": name, "true": None if true is None or true != true else str(true), "top": top})
    thumbnail = clip_axes.to_image(average_to_size(clip_axes.rescale_chroma(frames), THUMBNAIL_VALUES))
    return {"id": clip, "image": png_uri(thumbnail), "labels": labels}
