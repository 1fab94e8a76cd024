"""Findings about a collection as sentences, such as duplicates, shared groups and missing labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from etude.evaluation.formatting import NAMES, capitalise_first, format_count, format_number, format_score
from etude.reports.dataset.leakage import missing_classes, unlearnable_classes

FEW_PARTITIONS = 10  # with fewer balanced splits, a comparison over seeds of the split is limited
MAX_EXAMPLES = 3  # examples in a sentence; the tables contain all
PASSED, PROBLEM, UNCLEAR = "passed", "problem", "unclear"
Findings = Iterator[tuple[str, str]]


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
        text += f" {_quantify(n_crossing, len(rows), 'is', 'are')} in several splits."
    if n_differing := sum(bool(row["differing_targets"]) for row in rows):
        text += f" {_quantify(n_differing, len(rows), 'has', 'have')} different targets."
    yield PROBLEM, text


def _similar_clips(facts: dict[str, Any]) -> Findings:
    """Report pairs of clips that are nearly identical, across splits and within a split."""
    pairs, closest = facts["similar"]["pairs"], facts["similar"]["closest"]
    within = " within one split" if facts["splits"] else ""
    for crosses, location in ((True, " across splits"), (False, within)):
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
