"""Dataset page, a summary of a collection.

The page is a single file and loads nothing from a network. The template escapes every name from the data. Only the
figures and the data card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.audio.clip_statistics import PROPERTIES
from etude.audio.frontend import FrontEnd
from etude.data.collection import slug
from etude.data.pack_writer import read_skipped
from etude.data.sources.union import has_audio, open_properties
from etude.errors import DataError
from etude.evaluation.formatting import NAMES
from etude.files import os_errors, ownership
from etude.files.atomic import write_text
from etude.reports import clip_frames, html
from etude.reports.clip_frames import ClipFile, clip_files, load_view
from etude.reports.dataset import figures, leakage, statistics
from etude.reports.dataset.figures import ShownClip
from etude.reports.dataset.findings import list_findings
from etude.reports.dataset.statistics import SplitAssignment
from etude.reports.html import load_template

if TYPE_CHECKING:
    import numpy as np

    from etude.data.datamodule import MusicData
    from etude.data.pack import Pack
    from etude.data.splits import Split


log = logging.getLogger(__name__)
MAX_ROWS = 50  # rows of a table of pairs or files; explore.json contains all


@dataclass(frozen=True)
class ExploreOptions:
    """Options of the dataset page.

    Args:
        clips: Ids. An item can contain several ids, separated by commas. Without ids, random clips are selected.
        count: Number of random clips.
        seed: Seed of all random selections.
        out: Folder of the results of all collections.
    """

    clips: list[str] = field(default_factory=list)
    count: int = 4
    seed: int = 0
    out: Path = Path("outputs/explore")


def explore(module: MusicData, options: ExploreOptions, command: str = "") -> Path:
    """Prepare a collection, compute its statistics, and write its page.

    Args:
        module: Data module of a config. Its setup is not required.
        options: Selection of clips and output folder.
        command: Command that is shown on the page.

    Returns:
        Path of the page, `<out>/<collection>/explore.html`.

    Raises:
        UserError: A clip is not in the collection, or the folder cannot be written.
    """
    source, front = module.source, module.feature.front
    folder = options.out / slug(source.name)
    with os_errors.explain_errors(folder, os_errors.FOLDER_REMEDY, f"--out {options.out}"):
        ownership.open_folder(folder)
    ownership.check_names(folder, ("explore.html", "explore.json"))
    pack = module.open_pack()
    skipped = read_skipped(pack)
    if options.clips:
        named = (clip_frames.named_clips(item, pack.index, dict(skipped)) for item in options.clips)
        rows = list(dict.fromkeys(row for item in named for row in item))
    else:
        rows = clip_frames.random_clips(pack.index, source.targets, options.count, options.seed)
    split, files = _assign_splits(module, pack), clip_files(source)
    clips = [_load_clip(row, pack, module, split, files) for row in rows]
    facts = statistics.compute_statistics(source, pack, front, files, split, options.seed)
    facts["shortcuts"] = _score_shortcuts(module, pack, options.seed)
    return write_page(folder, facts | {"skipped": skipped}, clips, front, command, source.card)


def write_page(
    folder: Path, facts: dict[str, Any], clips: Sequence[ShownClip], front: FrontEnd, command: str, card: str
) -> Path:
    """Write explore.html, explore.json and the figures.

    Args:
        folder: Existing folder. Figures of an earlier call for the same collection are replaced.
        facts: Statistics, as returned by `statistics.compute_statistics`, with `skipped`, a list of ids and reasons.
        clips: Clips that are shown.
        front: Front end of their frames.
        command: Command that is shown on the page.
        card: Data card in Markdown.

    Returns:
        Path of the page.
    """
    figures.clear_figures(folder)
    label = next(iter(facts["labels"]), "")
    examples = figures.example_clips(clips, label)
    page = load_template("explore.html.j2").render(
        **facts,
        findings=list_findings(facts),
        examples=figures.example_figures(folder, examples, front, label),
        example_names=[
            f"{clip.id} ({dict(clip.fields)[label]})" if dict(clip.fields).get(label) else clip.id for clip in examples
        ],
        clips=figures.clip_figures(folder, clips, front),
        class_figures=figures.class_figures(folder, facts),
        histograms=figures.histogram_figures(folder, facts),
        card=html.markdown_to_html(card),
        command=command,
        max_rows=MAX_ROWS,
        metric_names=NAMES,
        shortcut_names={
            name: f"{name}: {', '.join(members)}" if len(members) > 1 else name for name, members in PROPERTIES.items()
        }
        | {"all": "all together"},
    )
    write_text(folder / "explore.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return write_text(folder / "explore.html", page)


def _assign_splits(module: MusicData, pack: Pack) -> SplitAssignment:
    """Return the configured split.

    If this split is refused, return the reason, and a split that allows shared groups and duplicates.
    """
    names = list(module.source.targets)
    try:
        return SplitAssignment(*_plan(module.split, pack, names))
    except DataError as error:
        reason = str(error)
    permissive = replace(module.split, allow_shared_groups=True, duplicates="allow")
    try:
        return SplitAssignment(*_plan(permissive, pack, names), reason)
    except DataError:
        return SplitAssignment(None, error=reason)


def _plan(split: Split, pack: Pack, names: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the split of each clip, and a description of how clips were split."""
    plan = split.plan(pack.index, names)
    description = {"kind": plan.kind, "column": plan.column, "fold": plan.fold, "folds": list(plan.folds)}
    return plan.splits, description | {"partitions": plan.partitions, "unused": plan.unused}


def _score_shortcuts(module: MusicData, pack: Pack, seed: int) -> dict[str, Any]:
    """Return the scores of shortcuts for each target, or {} if there are no audio files."""
    if not has_audio(module.source):
        return {}
    try:
        properties = open_properties(module.source, module.pack_options)
    except DataError as error:  # such as read-only packs; the page is written without these scores
        log.warning("the page has no scores of shortcuts: %s", error)
        return {}
    return leakage.shortcut_scores(properties, pack.index, module.targets, seed)


def _load_clip(
    row: int, pack: Pack, module: MusicData, split: SplitAssignment, files: dict[str, ClipFile]
) -> ShownClip:
    """Return a clip with its targets, group, split and frames."""
    import pandas as pd

    clip = pack.index.iloc[row]
    fields = [(name, clip[name]) for name in module.targets if not pd.isna(clip[name])]
    fields += [("group", clip["group"])] if not pd.isna(clip["group"]) else []
    fields += [("split", str(split.assigned[row]))] if split.assigned is not None else []
    clip_id = str(clip["id"])
    return ShownClip(clip_id, fields, load_view(clip_id, row, pack, module.feature.front, files))
