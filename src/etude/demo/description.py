"""Description of the network and example clips of the demo page."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.demo.neighbours import NeighbourSearch, split_rows
from etude.errors import UserError
from etude.evaluation.formatting import NAMES, format_count, format_score
from etude.evaluation.score_summary import (
    are_splits_disjoint,
    describe_clips,
    list_limitations,
    summarise_scores,
)
from etude.inference.model import Model
from etude.inference.windows import WindowPlan
from etude.reports import clip_frames
from etude.reports.clip_frames import clip_files
from etude.runs.folder import METRICS, RECORD, RunFolder, run_of
from etude.runs.readers import read_mapping

if TYPE_CHECKING:
    from etude.inspection.clips import InspectedRun


log = logging.getLogger(__name__)
N_EXAMPLES = 3
PRETRAINED = (
    "The tags are those of the classifier in the pretrained weights. Their probabilities are independent of each other "
    "and unreliable for music unlike that of its training data. A probability is an output of the network, not an "
    "observed frequency."
)


@dataclass
class NetworkDescription:
    """Header of the page.

    Args:
        name: Name of the run, or of its checkpoint.
        summary: One sentence on the network and its data.
        scores: For each target: `name`, `metric`, `score` with its interval, `baselines` (names and scores), `clips`
            (description of the test clips), and `verdict`.
        limitations: Sentences on the limitations of the scores and predictions.
    """

    name: str
    summary: str
    scores: list[dict[str, Any]] = field(default_factory=list)
    limitations: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Example:
    """Example clip.

    Args:
        name: Title of the clip.
        path: Path of the audio file.
        card: Credit, labels and player of the clip for the page.
    """

    name: str
    path: Path
    card: dict[str, Any]


def describe_network(model: Model, plan: WindowPlan, folder: Path | None) -> NetworkDescription:
    """Describe a network from the files of its run.

    Args:
        model: The network.
        plan: Window plan of the network.
        folder: Folder of its run. None for a checkpoint without a run folder.

    Raises:
        UserError: A file of the run is damaged or has an unexpected structure.
    """
    try:
        return _read_description(model, plan, folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{folder}: {RECORD} or {METRICS} has an unexpected structure ({reason}); restore both files, or use the "
            "checkpoint without the run folder"
        ) from error


def find_run_folder(run: Path, checkpoint: Path) -> Path | None:
    """Return the run folder of a checkpoint, or None if the checkpoint is not in one.

    Args:
        run: The run folder or checkpoint given by the user.
        checkpoint: Path of the checkpoint.
    """
    folder = run if run.is_dir() else run_of(checkpoint.resolve())
    return folder if RunFolder(folder).config_path.is_file() else None


def select_examples(run: InspectedRun | None, neighbours: NeighbourSearch) -> list[Example]:
    """Select clips of the test split, of different classes first. The list is empty if audio files are missing.

    Args:
        run: The run. None for a checkpoint without a run folder.
        neighbours: Search that creates the card of a clip.
    """
    if run is None or not neighbours.library.files:
        return []
    try:
        table = run.pack.index.iloc[split_rows(run, "test")].reset_index(drop=True)
        audio_files = clip_files(run.data.source)
    except (UserError, OSError) as error:
        log.warning("no examples: %s", error)
        return []
    examples: list[Example] = []
    for index in clip_frames.random_clips(table, neighbours.columns.targets, 3 * N_EXAMPLES, 0):
        row = table.iloc[index]
        file = audio_files.get(str(row["id"]))
        card = neighbours.card(row, file)
        if file is not None and card["audio"]:
            name = card["credit"].get("title") or card["id"]
            examples.append(Example(name, file.locate(neighbours.front), card))
        if len(examples) == N_EXAMPLES:
            break
    return examples


def _read_description(model: Model, plan: WindowPlan, folder: Path | None) -> NetworkDescription:
    run = RunFolder(folder) if folder else None
    record = _read_json(run.record_path) if run else {}
    metrics = _read_json(run.metrics_path) if run else {}
    specs, data = record.get("model", {}), record.get("data", {})
    network = f"{type(model.network.backbone).__name__} on {specs.get('feature', 'the frames of its front end')}"
    train = data.get("splits", {}).get("train", {})
    fitted = [probe["clips"] for probe in (specs.get("linear_probe") or {}).values()]
    count = max(fitted, default=train.get("clips"))  # validation clips can join the training clips of a probe
    clips = f", trained on {format_count(count, 'clip')}" if count is not None else ""
    if model.predicts_tags:
        backbone = model.network.backbone
        network += f", with the {backbone.weights} weights and {len(backbone.tag_names)} tags"
    summary = f"{network}{clips}{' of ' + data['title'] if clips and data.get('title') else ''}."
    disjoint = are_splits_disjoint(data, metrics.get("targets", {}))
    description = NetworkDescription(str(record.get("name") or model.name), summary)
    for name, target in metrics.get("targets", {}).items():
        if name in model.columns.targets:
            description.scores.append(_score_row(name, target, disjoint))
    limitations = description.limitations
    if record.get("trial"):
        limitations.append(f"This is a trial run (debug={record['trial']}); its scores are meaningless.")
    if model.predicts_tags:
        limitations.append(PRETRAINED)
        return description
    if not description.scores:
        limitations.append(f"The scores of this network are unknown, because there is no {METRICS} of its run.")
    cautions = [list_limitations(target["splits"]["test"]) for target in metrics.get("targets", {}).values()]
    limitations += dict.fromkeys(text for texts in cautions for text in texts)
    length = "" if plan.front.sync == "beat" else f" of {plan.seconds:.3g} s"
    limitations.append(
        f"The network was evaluated on clips{length}. For audio unlike that of its training clips, its "
        "predictions are unreliable, even if probabilities are high. A probability is an output of the network, not an "
        "observed frequency."
    )
    if data.get("note") and any((spec or {}).get("note") for spec in record.get("targets", {}).values()):
        limitations.append(str(data["note"]))
    return description


def _score_row(name: str, target: dict[str, Any], disjoint: bool) -> dict[str, Any]:
    """Return the test scores of network and baselines for a target, for the template."""
    metric, results = target["primary"], target["splits"]["test"]
    scores = results["scores"] or {}
    baselines = [
        (baseline["name"], format_score(baseline["scores"][metric]))
        for baseline in results["baselines"].values()
        if baseline["scores"].get(metric, {}).get("value") is not None  # undefined for some constants
    ]
    return {
        "name": name, "metric": NAMES[metric],
        "score": format_score(scores[metric]) if metric in scores else "not defined",
        "baselines": baselines, "clips": describe_clips(results, disjoint),
        "verdict": summarise_scores(target, disjoint=disjoint)[0],
    }  # fmt: skip


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of the run without checking its structure. Returns {} if the file is missing.

    Raises:
        UserError: The file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return read_mapping(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON; remove the file, or restore it from a copy") from error
