"""A clip that is shown: its frames, what is known about it, how it was chosen and cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from etude.errors import UserError
from etude.results.exploration.views import hears

if TYPE_CHECKING:
    import pandas as pd

    from etude.inspection.load import Run
    from etude.learner import Learner

LONGEST = 60.0  # seconds of a clip that are shown when nothing is said: what follows grows with their square


@dataclass(frozen=True)
class Clip:
    """Frames that are shown.

    Args:
        id: Of the clip, or the name of its file.
        x: Frames as the front end makes them, of the network's view (1, T, F), float32.
        y: True value by target (1,), -1 or NaN where there is none.
        words: What is known about it, as name and value.
        start: Where the first frame is, in seconds or beats.
        note: One sentence about how it was chosen or cut; often empty.
    """

    id: str
    x: Tensor
    y: dict[str, Tensor]
    words: list[tuple[str, Any]]
    start: float = 0.0
    note: str = ""


def most_wrong(test: pd.DataFrame, network: Learner) -> tuple[int, str]:
    """Place in a table of predictions of the most confident error of the first target, and a sentence about it."""
    name, target = next(iter(network.task.targets.items()))
    true, said = test[f"{name}.true"], test[f"{name}.pred"]
    known = true.notna().to_numpy()
    if target.kind == "scalar":
        far = np.where(known, np.abs(said.to_numpy(float) - true.to_numpy(float)), -1.0)
        return int(far.argmax()), f"No clip was named; this is the one of the test part whose {name} is furthest off."
    classes = [column for column in test if str(column).startswith(f"{name}.score.")]
    sure = test[classes].to_numpy(float).max(1)
    wrong = known & (said.to_numpy() != true.to_numpy())
    if not wrong.any():
        return int(sure.argmin()), (
            f"No clip was named, and every {name} of the test part is right; this is the least sure of them."
        )
    place = int(np.where(wrong, sure, -1.0).argmax())
    return place, f"No clip was named; this is the most confident error of the test part in {name}."


def cropped(clip: Clip, run: Run, crop: tuple[float, float] | None) -> Clip:
    """A part of a clip.

    Args:
        clip: The whole clip.
        run: Knows how many frames are a second.
        crop: First and last second (or beat); none takes all of it, up to a minute.

    Raises:
        UserError: The clip ends before that.
    """
    rate, whole = run.rate, clip.x.shape[1]
    unit = "beats" if run.front.sync == "beat" else "seconds"
    if crop is None:
        if not hears(run.front) or whole <= LONGEST * rate:
            return clip
        note = (
            f"{clip.note} The clip is longer; its first {LONGEST:g} {unit} are shown (crop=<from>-<to> shows others)."
        )
        return replace(clip, x=clip.x[:, : round(LONGEST * rate)], note=note.strip())
    first, last = round(crop[0] * rate), min(round(crop[1] * rate), whole)
    if first >= last:
        raise UserError(f"crop={crop[0]:g}-{crop[1]:g}: clip {clip.id} has {whole / rate:.1f} {unit} only")
    note = f"{clip.note} Of {whole / rate:.1f} {unit}, those from {first / rate:.1f} to {last / rate:.1f} are shown."
    return replace(clip, x=clip.x[:, first:last], start=first / rate, note=note.strip())


def truth(about: Any, network: Learner) -> dict[str, Tensor]:
    """True values by target (1,) of a row that may lack some."""
    import pandas as pd

    found = {}
    for name, target in network.task.targets.items():
        value = about.get(name)
        known = value is not None and not pd.isna(value)
        if target.kind == "label":
            classes: list[str] = getattr(target, "classes", [])
            found[name] = torch.tensor([classes.index(value) if known and value in classes else -1])
        else:
            found[name] = torch.tensor([float(value) if known else float("nan")])
    return found


def known(y: Mapping[str, Tensor], network: Learner) -> dict[str, Any]:
    """True values as people read them: a class or a number by target, none where there is none."""
    said = {}
    for name, target in network.task.targets.items():
        there = bool(target.known(y[name])[0])
        value = y[name][0].item()
        said[name] = (
            (getattr(target, "classes", [])[int(value)] if target.kind == "label" else value) if there else None
        )
    return said
