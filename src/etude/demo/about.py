"""Description of the network and example clips of the demo page."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.demo.neighbours import NeighbourSearch, split_rows
from etude.errors import UserError
from etude.evaluation.bootstrap import FEW_GROUPS
from etude.evaluation.formatting import NAMES, format_count, format_score
from etude.evaluation.score_summary import describe_clips, summarise_scores
from etude.inference.model import Model
from etude.inference.page import name_of
from etude.inference.windows import WindowPlan
from etude.reports import clip_frames
from etude.reports.clip_frames import clip_files
from etude.runs.folder import METRICS, RECORD, RunFolder, run_of
from etude.runs.readers import read_mapping

if TYPE_CHECKING:
    from etude.inspection.clips import InspectedRun


log = logging.getLogger(__name__)
COUNT = 3  # examples


@dataclass
class NetworkDescription:
    """Top of the page.

    Args:
        name: Of the run, or of its checkpoint.
        lead: One sentence on the network and its data.
        scores: Of each target `name`, `metric`, `score` with its interval, `others`: names and scores of the baselines,
            and `basis`: on how many clips.
        limits: Sentences on what its numbers are worth.
    """

    name: str
    lead: str
    scores: list[dict[str, Any]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Example:
    """Example clip.

    Args:
        name: Its title.
        path: Its sound.
        card: Credit, labels and player on the page.
    """

    name: str
    path: Path
    card: dict[str, Any]


def about(model: Model, plan: WindowPlan, folder: Path | None) -> NetworkDescription:
    """Describe a network.

    Args:
        model: The network.
        plan: How sounds are cut for it.
        folder: Folder of its run; None for a checkpoint alone.

    Raises:
        UserError: A file of the run is damaged, or does not hold what a run writes.
    """
    try:
        return _about(model, plan, folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder}: its {RECORD} or {METRICS} does not hold what a run writes ({reason}); restore both "
            "files, or name the checkpoint alone"
        ) from error


def home(run: Path, checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint; None where it lies in none."""
    folder = run if run.is_dir() else run_of(checkpoint.resolve())
    return folder if RunFolder(folder).config_path.is_file() else None


def examples(run: InspectedRun | None, near: NeighbourSearch) -> list[Example]:
    """Return clips of the test part, of different classes first; none where their sound is missing.

    Args:
        run: The run; None for a checkpoint alone.
        near: Search that makes the card of a clip.
    """
    if run is None or not near.library.files:
        return []
    try:
        table = run.pack.index.iloc[split_rows(run, "test")].reset_index(drop=True)
        known = clip_files(run.data.source)
    except (UserError, OSError) as error:
        log.warning("no examples: %s", error)
        return []
    found: list[Example] = []
    for row in clip_frames.random_clips(table, near.columns.targets, 3 * COUNT, 0):
        about = table.iloc[row]
        file = known.get(str(about["id"]))
        card = near.card(about, file)
        if file is not None and card["sound"]:
            found.append(Example(card["credit"].get("title") or card["id"], file.locate(near.front), card))
        if len(found) == COUNT:
            break
    return found


def _about(model: Model, plan: WindowPlan, folder: Path | None) -> NetworkDescription:
    run = RunFolder(folder) if folder else None
    record = _content(run.record_path) if run else {}
    metrics = _content(run.metrics_path) if run else {}
    made, data = record.get("model", {}), record.get("data", {})
    kind = f"{type(model.network.backbone).__name__} on {made.get('feature', 'the frames of its front end')}"
    trained = data.get("splits", {}).get("train", {})
    of = f", trained on {format_count(trained['clips'], 'clip')}" if "clips" in trained else ""
    lead = f"{kind}{of}{' of ' + data['title'] if of and data.get('title') else ''}."
    disjoint = bool(data.get("disjoint", False))
    found = NetworkDescription(str(record.get("name") or name_of(model.checkpoint)), lead)
    for name, target in metrics.get("targets", {}).items():
        if name in model.columns.targets:
            found.scores.append(_scored(name, target, disjoint))
    if record.get("trial"):
        found.limits.append(f"This is a trial (debug={record['trial']}), whose numbers mean nothing.")
    if not found.scores:
        found.limits.append(f"Nothing is known here of how well it does: its run has no {METRICS} beside it.")
    groups = [target["splits"]["test"]["groups"] for target in metrics.get("targets", {}).values()]
    if groups and min(groups) < FEW_GROUPS:
        found.limits.append("From so few groups the intervals are rough, and as a rule too narrow.")
    length = "" if plan.front.sync == "beat" else f" of {plan.length / plan.front.frames_per_second:.3g} s"
    found.limits.append(
        f"It was judged on clips{length}: of music unlike them, and of what is no music, it says something too, with "
        "the same air of certainty. A probability here is the network's own, not a frequency."
    )
    if data.get("note") and any((about or {}).get("note") for about in record.get("targets", {}).values()):
        found.limits.append(str(data["note"]))
    return found


def _scored(name: str, target: dict[str, Any], disjoint: bool) -> dict[str, Any]:
    metric, part = target["primary"], target["splits"]["test"]
    scores = part["scores"] or {}
    others = [
        (baseline["name"], format_score(baseline["scores"][metric]))
        for baseline in part["baselines"].values()
        if baseline["scores"].get(metric, {}).get("value") is not None  # a constant orders nothing
    ]
    return {
        "name": name, "metric": NAMES[metric],
        "score": format_score(scores[metric]) if metric in scores else "not defined",
        "others": others, "basis": describe_clips(part, disjoint),
        "words": summarise_scores(target, disjoint=disjoint)[0],
    }  # fmt: skip


def _content(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of the run, whose structure is not checked; empty where it is missing.

    Raises:
        UserError: It is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return read_mapping(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON; take the file away, or from where it is whole") from error
