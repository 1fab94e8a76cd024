"""From a run and a clip to inspect_<clip>.html, with the numbers beside it as JSON.

The page is one file that asks nothing of any network. Every name from the data is escaped by the template; only the
figures, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from etude import disk
from etude.data.collection import cut_bytes
from etude.files import ownership
from etude.files.atomic import write_text
from etude.inspection import attribution, explain, history, layers, pictures, strip
from etude.inspection.clips import Clip, cropped, known
from etude.inspection.gallery import gallery
from etude.inspection.load import Run
from etude.inspection.scene import Scene
from etude.inspection.statistics import statistics
from etude.inspection.trace import Trace, trace
from etude.results.measure import plain
from etude.results.template import template

if TYPE_CHECKING:
    from etude.inspection.command import Wish

log = logging.getLogger(__name__)


def inspect(wish: Wish, command: str = "") -> list[Path]:
    """Write the page of every clip that is wished for.

    Args:
        wish: Which run, which clips, and where to.
        command: What the pages say they were made by.

    Returns:
        Paths of the pages.

    Raises:
        UserError: There is no such run or clip, or the folder cannot be written.
    """
    to = wish.to or wish.folder
    with disk.explained(to, disk.OTHER_FOLDER, f"to={to}"):
        ownership.open_folder(to)
    run = Run(wish.folder, wish.checkpoint)
    log.info("%s: epoch %d, %s", run.path, run.epoch, type(run.network.backbone).__name__)
    clips = [cropped(clip, run, wish.crop) for clip in run.clips(wish.clips)]
    ownership.check_names(to, [f"inspect_{stem(clip.id)}.{kind}" for clip in clips for kind in ("html", "json")])
    if not attribution.installed():
        log.warning(attribution.LACKING)
    return [_write(run, clip, to, command) for clip in clips]


def stem(clip: str) -> str:
    """A clip's id as part of a file's name; one that would be changed by that keeps apart from others by its hash."""
    safe = cut_bytes(re.sub(r"[^\w.-]+", "-", clip).strip("-."), 100)
    return safe if safe and safe == clip else f"{safe}-{hashlib.sha256(clip.encode()).hexdigest()[:6]}".lstrip("-")


def _write(run: Run, clip: Clip, to: Path, command: str) -> Path:
    log.info("%s: %d frames", clip.id, clip.x.shape[1])
    network, captum = run.network, attribution.installed()
    scene = Scene(run.front, run.columns, clip.x.shape[1], clip.start)
    seen, base = trace(network, clip.x, clip.y), scene.even(clip.x[0].numpy())
    parts, cam = explain.attributions(network, seen.x, base, seen.said, clip.y, scene) if captum else (None, None)
    attention = explain.attention(network, seen.x, base, scene)
    log.info("Pictures of %d parts", len(seen.points))
    drawn = layers.draw(seen.points, scene)
    name, index, words = history.target(network, seen.said, clip.y)
    moments = history.moments(run.folder, clip.x, clip.y, (name, index) if captum else None)
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
        "outputs": explain.outputs(network, seen.said, seen.each, known(clip.y, network)),
        "layers": rows,
        "attributions": parts.numbers if parts else None,
        "grad_cam": cam.numbers if cam else None,
        "attention": attention.numbers,
        "epochs": history.numbers(moments),
    }
    page = template("inspect.html.j2").render(
        **{**about, "layers": rows, "command": command, "run": run.folder.resolve().name, "scene": scene},
        words=clip.words,
        lacking=None if captum else attribution.LACKING,
        steps=attribution.STEPS,
        inputs=_inputs(clip, seen, scene),
        parts=parts,
        cam=cam,
        rollout=attention,
        drawn=drawn,
        strip=strip.draw(moments, scene, words) if len(moments) > 1 else [],
        moments=history.words(moments),
        curves=curves(run.folder),
        gallery=gallery(run, clip.id),
    )
    path = to / f"inspect_{stem(clip.id)}.html"
    with disk.explained(to, disk.OTHER_FOLDER, f"to={to}"):
        write_text(path.with_name(f"{path.stem}.json"), json.dumps(plain(about), indent=1, ensure_ascii=False) + "\n")
        return write_text(path, page)


def curves(folder: Path) -> list[tuple[str, str]]:
    """The loss of the run by epoch."""
    from etude.results import reading
    from etude.results.learning import panels

    drawn = panels(reading.curves(folder), None)["panels"]
    return [("Loss by epoch: training dashed, validation a line.", svg) for title, svg in drawn if title == "loss"]


def _inputs(clip: Clip, seen: Trace, scene: Scene) -> list[tuple[str, str]]:
    """The frames as they are, as the network gets them, and the gradient of the loss by these."""
    unit = "dB" if scene.sound and hasattr(scene.front, "top_db") and scene.view.start == 0 else ""
    raw = pictures.large("input-raw", f"Frames of {clip.id}.", scene, scene.even(clip.x[0].numpy()), unit, magma=True)
    x = pictures.large("input", f"Standardised frames of {clip.id}.", scene, seen.x[0].double().numpy())
    chroma = ", with chroma from 0 to 1 above" if scene.view.start < scene.front.n_mels < scene.view.stop else ""
    found = [
        (f"The clip, as the front end hears it{chroma}." if scene.sound else "The image.", raw),
        ("What goes in: each bin in standard deviations from its mean over the training part.", x),
    ]
    if (gradient := seen.points[0].gradient) is not None:
        drawn = pictures.large("input-gradient", "Gradient of the loss.", scene, gradient[0].double().numpy())
        found.append(("Gradient of the loss by what goes in.", drawn))
    return found
