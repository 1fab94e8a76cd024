"""Dataset page, a summary of a collection, with findings such as duplicates, shared groups and missing labels.

The page is a single file and loads nothing from a network. The template escapes every name from the data. Only the
figures and the data card, which escape their own text, are marked as safe.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.audio.clip_statistics import PROPERTIES
from etude.audio.frontend import FrontEnd
from etude.data.collection import slug
from etude.data.pack_writer import read_skipped
from etude.data.sources.union import has_audio, open_properties
from etude.errors import DataError
from etude.evaluation.formatting import NAMES, capitalise_first, format_count, format_number, format_score
from etude.files import os_errors, ownership
from etude.files.atomic import write_text
from etude.reports import clip_frames, html
from etude.reports.clip_frames import ClipFile, clip_files, load_view
from etude.reports.dataset import figures, leakage, statistics
from etude.reports.dataset.figures import ShownClip
from etude.reports.dataset.leakage import missing_classes, unlearnable_classes
from etude.reports.dataset.statistics import SplitAssignment
from etude.reports.html import load_template

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.data.pack import Pack


log = logging.getLogger(__name__)
MAX_ROWS = 50  # rows of a table of pairs or files; explore.json contains all
FEW_PARTITIONS = 10  # with fewer balanced splits, a comparison over seeds of the split is limited
MAX_EXAMPLES = 3  # examples in a sentence; the tables contain all
PASSED, PROBLEM, UNCLEAR = "passed", "problem", "unclear"
Findings = Iterator[tuple[str, str]]


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
    split, files = statistics.assign_splits(module, pack), clip_files(source)
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
        split_noun=_split_noun(facts),
        max_rows=MAX_ROWS,
        metric_names=NAMES,
        shortcut_names={
            name: f"{name}: {', '.join(members)}" if len(members) > 1 else name for name, members in PROPERTIES.items()
        }
        | {"all": "all together"},
    )
    write_text(folder / "explore.json", json.dumps(facts, indent=1, ensure_ascii=False))
    return write_text(folder / "explore.html", page)


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


def list_findings(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the state of each check, `passed`, `problem` or `unclear`, and a sentence. Problems are first.

    Args:
        facts: Statistics of the collection, as returned by `statistics.compute_statistics`.
    """
    checks = (_identical_clips, _similar_clips, _groups, _split, _classes, _shortcuts, _missing_targets, _file_names)
    findings = [finding for check in checks for finding in check(facts)]
    return sorted(findings, key=lambda finding: (PROBLEM, UNCLEAR, PASSED).index(finding[0]))


def _identical_clips(facts: dict[str, Any]) -> Findings:
    """Report clips with identical frames, and whether they are in several splits or have different targets."""
    rows = facts["identical"]
    if not rows:
        yield PASSED, "No two clips have identical frames."
        return
    examples = _join_examples(" = ".join(row["ids"]) for row in rows)
    text = f"{_count(rows, 'recording has', 'recordings have')} several ids: {examples}."
    if n_crossing := sum(row["crosses_splits"] for row in rows):
        text += f" {_quantify(n_crossing, len(rows), 'is', 'are')} in several {_split_noun(facts)}s."
    if n_differing := sum(bool(row["differing_targets"]) for row in rows):
        text += f" {_quantify(n_differing, len(rows), 'has', 'have')} different targets."
    yield PROBLEM, text


def _split_noun(facts: dict[str, Any]) -> str:
    """Return what clips can cross: splits, or official folds, each of which is the test split once."""
    method = facts["split_method"]
    return "official fold" if method.get("column") and method["folds"] else "split"


def _similar_clips(facts: dict[str, Any]) -> Findings:
    """Report pairs of clips that are nearly identical, across splits and within a split."""
    pairs, closest = facts["similar"]["pairs"], facts["similar"]["closest"]
    noun = _split_noun(facts)
    within = f" within one {noun}" if facts["splits"] else ""
    for crosses, location in ((True, f" across {noun}s"), (False, within)):
        rows = [pair for pair in pairs if pair["crosses_splits"] == crosses]
        if rows:
            examples = _join_examples(" – ".join(pair["ids"]) for pair in rows)
            count = _count(rows, "pair of clips is", "pairs of clips are")
            yield PROBLEM, f"{count} nearly identical{location}: {examples}."
    if not pairs and facts["data"]["is_audio"]:
        text = "No two clips are nearly identical"
        if closest and closest["correlation"] > 0:
            ids, value = " – ".join(closest["ids"]), format_number(closest["correlation"])
            text += f"; the most similar pair, {ids}, has a correlation of {value}"
        yield PASSED, text + "."


def _groups(facts: dict[str, Any]) -> Findings:
    """Report groups in several splits, and clips without a group."""
    data, shared_groups = facts["data"], facts["shared_groups"]
    if not data["groups"]:
        yield UNCLEAR, "Groups are unknown, so it cannot be checked whether an artist is in both training and test."
        return
    if shared_groups:
        examples = _join_examples(row["group"] for row in shared_groups)
        yield PROBLEM, f"{_count(shared_groups, 'group is', 'groups are')} in several splits: {examples}."
    elif facts["splits"]:
        known = "group" if not data["without_group"] else "known group"
        yield PASSED, f"No {known} occurs in more than one split."
    if count := data["without_group"]:
        text = "has no group and is" if count == 1 else "have no group; each is"
        yield UNCLEAR, f"{format_count(count, 'clip')} {text} treated as a separate group."


def _split(facts: dict[str, Any]) -> Findings:
    """Report official splits, clips that are not used, and a small number of balanced splits."""
    method = facts.get("split_method") or {}
    if method.get("kind") == "official":
        fold = "" if method["fold"] is None else f": fold {method['fold']} of {', '.join(map(str, method['folds']))}"
        yield PASSED, f"The splits are official, from the column {method['column']}{fold}."
    for reason, count in method.get("unused", {}).items():
        yield UNCLEAR, f"{format_count(count, 'clip')} {'is' if count == 1 else 'are'} not used ({reason})."
    if (partitions := method.get("partitions")) is not None:
        text = f"{format_count(partitions, 'split')} of these groups {'is' if partitions == 1 else 'are'} balanced"
        state = UNCLEAR if partitions < FEW_PARTITIONS else PASSED
        yield state, f"{text}, so values of data.split.seed repeat after {partitions}."


def _classes(facts: dict[str, Any]) -> Findings:
    """Report classes with clips of only one group, and splits without clips of a class."""
    for name, label in facts["labels"].items():
        if rows := label["single_group_classes"]:
            examples = _join_examples(f"{row['class']} from {row['group']}" for row in rows)
            count = _count(rows, "class has", "classes have")
            consequence = "the network may recognise the group instead of the class"
            yield PROBLEM, f"{capitalise_first(name)}: {count} clips of only one group ({examples}), so {consequence}."
        elif facts["data"]["groups"]:
            yield PASSED, f"{capitalise_first(name)}: every class has clips of two or more groups."
        untrained, only_trained = unlearnable_classes(label)
        if untrained:
            text = f"the training split has no clips of {', '.join(untrained)}, so their clips cannot be classified"
            yield PROBLEM, f"{capitalise_first(name)}: {text} (see data.split.few_groups)."
        if only_trained:
            yield PROBLEM, f"{capitalise_first(name)}: only training has clips of {', '.join(only_trained)}."
        if missing := missing_classes(label):
            examples = _join_examples(f"{split} has no {class_name}" for class_name, split in missing)
            yield PROBLEM, f"{capitalise_first(name)}: some classes are missing from a split ({examples})."


def _shortcuts(facts: dict[str, Any]) -> Findings:
    """Report targets that can be predicted from level, bandwidth, length or silence of the files.

    It is a problem if the interval of a label's score excludes chance and the score is closer to 1 than to chance. A
    scalar such as a rating of energy can depend on the level of the music itself.
    """
    for name, target in facts["shortcuts"].items():
        chance = target["chance"]
        problems: list[str] = []
        unclear: list[str] = []
        for row in target["scores"]:
            score = row["score"]
            # a perfect score has no interval, because all resamples are equal
            above_chance = score["value"] == 1 if score["low"] is None else score["low"] > chance
            if row["features"] == "all" or not above_chance:
                continue
            is_problem = target["metric"] == "macro_recall" and score["value"] > (1 + chance) / 2
            (problems if is_problem else unclear).append(
                f"{row['features']} ({NAMES[target['metric']]} {format_score(score)}, chance {format_number(chance)})"
            )
        title = capitalise_first(name)
        if problems:
            consequence = "so the network may recognise the file instead of the music"
            yield (
                PROBLEM,
                f"{title} can be told from the files' {' and from their '.join(problems)} alone, {consequence}.",
            )
        if unclear:
            yield UNCLEAR, f"{title} is related to the files' {' and to their '.join(unclear)}."
        if not problems and not unclear:
            yield PASSED, f"{title} cannot be told from level, bandwidth, length or silence of the files."


def _missing_targets(facts: dict[str, Any]) -> Findings:
    """Report targets with missing values."""
    for name, target in (facts["labels"] | facts["scalars"]).items():
        if missing := target["missing"]:
            yield UNCLEAR, f"{capitalise_first(name)} is missing for {format_count(missing, 'clip')}."


def _file_names(facts: dict[str, Any]) -> Findings:
    """Report file names that occur more than once."""
    rows = facts["repeated_names"]
    if rows is None:
        yield UNCLEAR, "The pack does not list its source files, so file names are not compared."
    elif rows:
        examples = _join_examples(f"{row['name']} ({format_count(len(row['ids']), 'time')})" for row in rows)
        yield UNCLEAR, f"{_count(rows, 'file name occurs', 'file names occur')} more than once: {examples}."
    else:
        yield PASSED, "No file name occurs more than once."


def _join_examples(items: Iterable[str]) -> str:
    """Return the first three items and the number of the others."""
    items = list(items)
    rest = len(items) - MAX_EXAMPLES
    return "; ".join(items[:MAX_EXAMPLES]) + (f"; and {rest} more" if rest > 0 else "")


def _count(rows: list[Any], singular: str, plural: str) -> str:
    """Return the number of rows with a text in singular or plural."""
    return f"{len(rows):,} {singular if len(rows) == 1 else plural}"


def _quantify(count: int, total: int, singular: str, plural: str) -> str:
    """Return "It is", "All are", "1 of them is" or "2 of them are" for a count and its verb."""
    if total == 1:
        return f"It {singular}"
    if count == total:
        return f"All {plural}"
    return f"{count} of them {singular if count == 1 else plural}"
