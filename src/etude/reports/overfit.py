"""Page of a run that overfits a few clips, which a network without errors can do.

The page compares the predictions of the first and the last validation with the true values. Training and validation use
the same clips, so these are no scores.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.evaluation.formatting import format_count, format_number
from etude.files.atomic import write_text
from etude.reports.charts import Panel, log_ticks, padded_range
from etude.reports.html import load_template
from etude.runs.folder import RunFolder
from etude.runs.readers import read_mapping
from etude.runs.schemas import overfit_fault

if TYPE_CHECKING:
    from pandas import DataFrame


NEAR_ZERO = 0.05  # largest share of the first loss that is nearly zero
TOLERANCE = 0.1  # largest error of a scalar that is learned, as a share of its range
STILL_FALLING = 0.9  # largest ratio of the last loss to the loss a quarter of the epochs earlier
MIN_STEPS = 3  # fewest steps between these two losses, if there are as many
LARGE = 1e5  # numbers of this size or more have an exponent
MOST_NAMED = 3  # clips in the verdict
ROW_HEIGHT = 30  # pixels of a clip in a figure


@dataclass(frozen=True)
class Verdict:
    """Conclusion about a run that overfits a few clips.

    Args:
        passed: Whether the loss is nearly zero and all clips are learned.
        sentence: Conclusion with the losses and the clips that are not learned.
        checks: Sentences about possible reasons. Empty if the run passed.
        limit: Largest loss that is nearly zero.
    """

    passed: bool
    sentence: str
    checks: list[str]
    limit: float


def write_overfit(run: RunFolder, content: dict[str, Any]) -> str:
    """Write overfit.json and overfit.html, and return the verdict with the path of the page.

    Args:
        run: The run's folder.
        content: Result of `OverfitPredictions.describe`. Without a validation, no files are written.
    """
    if not content["first"]:
        return "There is no overfit.html, because the network was never validated; set trainer.limit_val_batches=1."
    write_text(run.overfit_path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    sentence = write_overfit_page(run).sentence
    return f"{sentence} Page: {os.path.relpath(run.overfit_page_path)}; there is no report, because this is not a test"


def write_overfit_page(run: RunFolder) -> Verdict:
    """Write overfit.html from overfit.json, config.yaml and curves.csv, and return the verdict.

    Raises:
        UserError: overfit.json cannot be read.
    """
    try:
        content = read_mapping(run.overfit_path)
        if fault := overfit_fault(content):
            raise ValueError(fault)
    except ValueError as error:
        raise UserError(f"{run.overfit_path}: cannot be read; train the run again with debug=overfit") from error
    clips: list[dict[str, Any]] = content["clips"]
    first, last = (float(content[key]["losses"]["val/loss"]) for key in ("first", "last"))
    config = run.config if run.config_path.is_file() else {}
    log = run.read_curves()
    verdict = find_verdict(content, config, log)
    targets = []
    for name, spec in content["targets"].items():
        entries = [clip for clip in clips if clip["target"] == name]
        rows = [entry | {"learned": is_learned(entry, spec)} for entry in entries]
        svg = draw_predictions(name, spec, entries) if entries else ""
        targets.append({"name": name, "kind": spec["kind"], "rows": rows, "svg": svg, "tolerance": _tolerance(spec)})
    page = load_template("overfit.html.j2").render(
        name=config.get("name") or run.path.name,
        verdict=verdict,
        loss=draw_loss(log, content, verdict.limit),
        targets=targets,
        first_epoch=content["first"]["epoch"],
        last_epoch=content["last"]["epoch"],
        first_loss=first,
        last_loss=last,
        format=_format,
        n=len({clip["id"] for clip in clips}),
    )
    write_text(run.overfit_page_path, page)
    return verdict


def is_learned(entry: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Return whether the last prediction is the true class, or is near the true value."""
    if spec["kind"] == "label":
        return bool(entry["last"] == entry["true"])
    return abs(entry["last"] - entry["true"]) <= _tolerance(spec)


def find_verdict(content: dict[str, Any], config: dict[str, Any], log: DataFrame) -> Verdict:
    """Return whether the loss reached nearly zero and which clips were not learned.

    Args:
        content: Content of overfit.json.
        config: Content of config.yaml.
        log: Content of curves.csv.
    """
    first, last = (float(content[key]["losses"]["val/loss"]) for key in ("first", "last"))
    limit = max(NEAR_ZERO * first, float(content.get("threshold") or 0.0))
    clips = content["clips"]
    wrong = [clip for clip in clips if not is_learned(clip, content["targets"][clip["target"]])]
    n, n_wrong = len({clip["id"] for clip in clips}), len({clip["id"] for clip in wrong})
    is_low = last <= limit
    epochs = format_count(content["last"]["epoch"], "epoch")
    verb = "fell" if last < first else "rose" if last > first else "changed"
    change = f"The loss {verb} from {_loss(first)} to {_loss(last)} in {epochs}"
    if _loss(first) == _loss(last):
        change = f"The loss did not fall: {_loss(last)} after {epochs}"
    nearly = f"{'nearly' if is_low else 'not nearly'} zero (at most {_loss(limit)})"
    if wrong:
        named = ", ".join(_describe_error(clip) for clip in wrong[:MOST_NAMED])
        n_more = len(wrong) - MOST_NAMED
        more = f" and {format_count(n_more, 'more prediction')}" if n_more > 0 else ""
        share = "the clip" if n == 1 else f"{n_wrong} of {format_count(n, 'clip')}"
        conclusion = f"The network did not learn {share}: {named}{more}."
    else:
        every = "the clip" if n == 1 else f"all {format_count(n, 'clip')}"
        conclusion = f"The network learned {every}." if is_low else f"The network predicts {every} correctly."
    sentence = f"{conclusion} {change}, which is {nearly}."
    passed = is_low and not wrong
    return Verdict(passed, sentence, [] if passed else _list_checks(config, log, limit, bool(wrong)), limit)


def _list_checks(config: dict[str, Any], log: DataFrame, limit: float, has_wrong: bool) -> list[str]:
    """Return possible reasons why clips were not learned, with a remedy each."""
    checks = []
    losses = log["train/loss"].dropna().tolist() if "train/loss" in log else []
    epochs = (config.get("trainer") or {}).get("max_epochs")
    longer = f"Train longer{f': trainer.max_epochs={2 * int(epochs)}' if epochs else ''}."
    if losses and losses[-1] <= limit:
        checks.append(
            "The training loss is nearly zero, so training and evaluation of the same clips differ, such as by the "
            f"running statistics of a batch normalisation after few steps. {longer}"
        )
    elif len(losses) == 1:
        checks.append(f"One epoch does not show whether the training loss falls. {longer}")
    elif _is_falling(losses):
        checks.append(f"The training loss still fell at the end of training. {longer}")
    else:
        rate = (config.get("optim") or {}).get("lr")
        now = f" (now optim.lr={rate:g})" if isinstance(rate, float | int) else ""
        remedy = f"Try other learning rates{now}; debug=find_lr shows the loss by rate."
        checks.append(f"The training loss no longer falls. {remedy}")
    if (train := (config.get("transfer") or {}).get("train")) not in (None, "full"):
        checks.append(f"transfer.train={train} keeps layers frozen. Try transfer.train=full.")
    if has_wrong:
        checks.append("Listen to the clips that are not learned. A clip can be silent, or have a wrong label.")
    checks.append("Look for errors in the layers and masks of a new backbone, or enlarge the network.")
    return checks


def _is_falling(losses: list[float]) -> bool:
    """Return whether the loss decreased clearly, or at each step, over the last quarter of the epochs."""
    steps = min(max(MIN_STEPS, len(losses) // 4), len(losses) - 1)
    if steps < 1:
        return False
    last = losses[-1 - steps :]
    return last[-1] < STILL_FALLING * last[0] or all(b < a for a, b in pairwise(last))


def draw_loss(log: DataFrame, content: dict[str, Any], limit: float) -> str:
    """Draw training and validation loss by epoch as SVG, or return "" without losses. Positive losses are logarithmic.

    Args:
        log: Content of curves.csv.
        content: Content of overfit.json, whose first loss may be of the untrained network.
        limit: Largest loss that is nearly zero.
    """
    epochs = log.groupby("epoch").mean(numeric_only=True) if "epoch" in log else log.iloc[:0]
    lines = {name: {int(e): float(v) for e, v in epochs[name].dropna().items()}  # type: ignore[call-overload]
             for name in ("train/loss", "val/loss") if name in epochs}  # fmt: skip
    first = content["first"]
    lines["val/loss"] = {first["epoch"]: first["losses"]["val/loss"]} | lines.get("val/loss", {})
    values = [value for line in lines.values() for value in line.values()]
    logarithmic = min([*values, limit]) > 0

    def position(value: float) -> float:
        return math.log10(value) if logarithmic else value

    x = padded_range([epoch for line in lines.values() for epoch in line], 0.03)
    y = padded_range([position(value) for value in [*values, limit]], 0.06)
    unit = "no unit, logarithmic" if logarithmic else "no unit"
    description = f"Loss by epoch, from {_loss(lines['val/loss'][first['epoch']])} to {_loss(values[-1])}."
    ticks = log_ticks(y, 7) if logarithmic else None
    panel = Panel(x, y, description, "epoch", f"loss ({unit})", (560, 260), yticks=ticks, integer=True)
    panel.line(x, [position(limit)] * 2, "muted", "2 3", 1.2)
    panel.text(x[1], position(limit), "nearly zero below this line", "end")
    for name, role, dash in (("train/loss", "constant", "5 3"), ("val/loss", "network", "")):
        if line := lines.get(name):
            panel.line(line, [position(value) for value in line.values()], role, dash)
            if name == "val/loss":
                panel.points(line, [position(value) for value in line.values()], role, "o", 2.6)
    return panel.svg()


def draw_predictions(name: str, spec: dict[str, Any], entries: list[dict[str, Any]]) -> str:
    """Draw the first and the last prediction of each clip beside the true value as SVG.

    For a label, these are the probabilities of the true class, and the true value is 1.
    """
    is_label = spec["kind"] == "label"
    ends = (0.0, 1.0) if is_label else (float(spec["low"]), float(spec["high"]))
    suffix = "_probability" if is_label else ""
    labels = [_shorten(str(e["id"]), 20) + f": {_shorten(e['true'], 14)}" if is_label else _shorten(str(e["id"]), 34)
              for e in entries]  # fmt: skip
    xlabel = f"probability of the true {name}" if is_label else name
    n = len(entries)
    description = f"{xlabel} of {format_count(n, 'clip')} before and after training; the table contains the numbers."
    rows = [(float(i), label) for i, label in enumerate(labels)]
    margin = 0.03 * (ends[1] - ends[0])
    panel = Panel((ends[0] - margin, ends[1] + margin), (n - 0.4, -0.6), description, xlabel, "",
                  (640, 56 + ROW_HEIGHT * n), yticks=rows, left=226)  # fmt: skip
    for i, entry in enumerate(entries):
        first, last = entry[f"first{suffix}"], entry[f"last{suffix}"]
        true = 1.0 if is_label else entry["true"]
        panel.line([first, last], [i, i], "network" if is_learned(entry, spec) else "bad", width=1.6)
        panel.points([true], [i], "ink", "D", 5.2, hollow=True)
        panel.points([first], [i], "constant", "s", 3.2)
        panel.points([last], [i], "network" if is_learned(entry, spec) else "bad", "o", 3.8)
    return panel.svg()


def _shorten(text: str, n_max: int) -> str:
    """Return a text of at most `n_max` characters, without its middle, because ids often differ at their ends."""
    return text if len(text) <= n_max else f"{text[: n_max // 2 - 1]}…{text[-(n_max - n_max // 2) :]}"


def _tolerance(spec: dict[str, Any]) -> float:
    """Return the largest error of a scalar that counts as learned. It is 0 for a label."""
    return 0.0 if spec["kind"] == "label" else TOLERANCE * (float(spec["high"]) - float(spec["low"]))


def _describe_error(clip: dict[str, Any]) -> str:
    """Return a clause about a clip that is not learned, such as "a.wav (genre: jazz instead of rock)"."""
    last, true = (v if isinstance(v := clip[key], str) else _format(float(v)) for key in ("last", "true"))
    return f"{clip['id']} ({clip['target']}: {last} instead of {true})"


def _loss(value: float) -> str:
    """Return a loss with two significant digits or more."""
    return _format(value, 2 if abs(value) >= 0.1 else 3 if abs(value) >= 0.01 else 4)


def _format(value: float, digits: int = 2) -> str:
    """Return a number as text. A large number has an exponent, such as 1.23e+08."""
    if LARGE <= abs(value) < math.inf:
        return f"{value:.3g}".replace("-", "−")
    return format_number(value, digits)
