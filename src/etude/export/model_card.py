"""Model card of an export."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import (
    NAMES,
    capitalise_first,
    format_count,
    format_interval,
    format_number,
    format_sentence,
)
from etude.evaluation.metrics import PRIMARY
from etude.evaluation.score_summary import describe_clips, describe_limitations, summarise_scores

if TYPE_CHECKING:
    from jinja2 import Template

    from etude.export.graph import Graph
    from etude.inference.model import Model


MARKS = re.compile(r"([\\`*_\[\]|#~$])|^(?=[-+=])")  # anywhere; and what begins a list where a line begins
FILE = "README.md"
METRICS = {
    "label": ("macro_f1", "accuracy", "macro_precision", "macro_recall"),
    "scalar": ("spearman", "ccc", "r2", "mae", "mse"),
}
# the hub's names of metrics and licences, where it has them
HUB = {"macro_f1": "f1", "macro_precision": "precision", "macro_recall": "recall", "accuracy": "accuracy",
       "spearman": "spearmanr", "ccc": "ccc", "r2": "r_squared", "mae": "mae", "mse": "mse"}  # fmt: skip
LICENCES = re.compile(
    r"cc0-1\.0|cc-by(-2\.0|-2\.5|(-sa|-nc|-nc-sa|-nc-nd)?-[34]\.0|-nd-4\.0)|mit|apache-2\.0|bsd-3-clause|l?gpl-3\.0"
)


class Markdown(str):
    """Text with Markdown marks that keep their effect."""


@dataclass(frozen=True)
class ExportedFile:
    """Exported file that a card describes.

    Args:
        name: Its name.
        size: Its size in bytes.
        tried: Its differences from the network, as text.
    """

    name: str
    size: int
    tried: str


def card(
    about: Mapping[str, Any],
    files: Sequence[ExportedFile],
    whose: str,
    record: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as Markdown with a head of YAML.

    Args:
        about: What files keep of themselves; see `about.about`.
        files: What is beside it.
        whose: Which clips they were tried on.
        record: The run's record.json; none of a checkpoint alone.
        metrics: Its metrics.json.
    """
    import yaml

    head = yaml.safe_dump(front_matter(about, files, record, metrics), allow_unicode=True, sort_keys=False, width=1000)
    data = (record or {}).get("data", {})
    rows = [_target(name, about["targets"][name], record, metrics) for name in about["targets"]]
    settings = ", ".join(f"{key} {value}" for key, value in about["settings"].items())
    text = _template().render(
        about=about, files=files, whose=whose, record=record, data=data, rows=rows,
        formats=[file.name for file in files], resamples=(metrics or {}).get("resamples"),
        title=(record or {}).get("name") or "a network of Étude", code=code, fenced=fenced,
        settings=settings, format_count=format_count, format_sentence=format_sentence,
        capitalise_first=capitalise_first, number=format_number,
    )  # fmt: skip
    return f"---\n{head}---\n\n{text}"


def escaped(value: object) -> str:
    """Return a value as text in which marks, tags and line breaks have no effect."""
    if isinstance(value, Markdown):
        return value
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKS.sub(lambda found: f"\\{found[0]}", text)


def code(value: object) -> Markdown:
    """Return a value as code in a line; in a table too."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if len(marks) > 1 else ""
    return Markdown(f"{marks}{space}{text}{space}{marks}")


def fenced(text: str, language: str = "") -> Markdown:
    """Return a block of code."""
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markdown(f"{marks}{language}\n{text.strip(chr(10))}\n{marks}")


def about(model: Model, graph: Graph | None) -> dict[str, Any]:
    """What files and the card say of a network: plain values, none of which knows this machine."""
    recipe, front, plan = model.network.recipe, model.front, model.plan()
    seconds = plan.samples / front.rate
    return {
        "version": version("etude"),
        "input": graph.takes if graph else None,
        "front": type(front).__name__,
        "settings": {key: value for key, value in front.to_dict().items() if key != "_target_"},
        "rate": front.rate,
        "bins": recipe["bins"],
        "frames_per_second": front.frames_per_second,
        "dim": model.network.backbone.dim,
        "ragged": graph.ragged if graph else True,
        "least": graph.least if graph else 1,
        "window": round(seconds, 3) if model.has_clip_length and front.sync == "none" and front.rate > 1 else None,
        "shortest": plan.shortest or None,
        "crop": plan.crop if plan.crops else None,
        "crops": plan.crops,
        "targets": model.columns.targets,
    }


def config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds: the recipe, in which a file of weights of this machine is its name alone."""
    return {
        "library_name": "etude", "model_type": "etude", "etude_version": version("etude"),
        "etude": {**recipe, "config": _without_folders(recipe["config"])},
    }  # fmt: skip


def front_matter(
    about: Mapping[str, Any],
    files: Sequence[ExportedFile],
    record: Mapping[str, Any] | None,
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the hub reads of a card; the licence is that of the data, from which the weights were made."""
    known = [str(name).lower() for name in (record or {}).get("data", {}).get("licences", {})]
    licence = known[0] if len(known) == 1 and LICENCES.fullmatch(known[0]) else "other"
    head: dict[str, Any] = {"license": licence}
    if licence == "other":
        head["license_name"] = "that-of-the-data" if known else "unknown"
    tags = ["music", "audio", *(["onnx"] if any(file.name.endswith(".onnx") for file in files) else [])]
    head |= {"library_name": "etude", "pipeline_tag": "audio-classification", "tags": [*tags, *about["targets"]]}
    results = [
        {
            "task": {"type": "audio-classification", "name": name},
            "dataset": {"type": record["data"]["name"], "name": record["data"]["title"], "split": "test"},
            "metrics": found,
        }
        for name, target in (metrics or {}).get("targets", {}).items()
        if record is not None and (found := _hub(target))
    ]
    return head | ({"model-index": [{"name": record["name"], "results": results}]} if results and record else {})


def _without_folders(node: Any) -> Any:
    """A config in which whole paths are the names of their files."""
    if isinstance(node, Mapping):
        return {key: _without_folders(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_folders(value) for value in node]
    whole = isinstance(node, str) and (Path(node).is_absolute() or node.startswith("~"))
    return Path(node).name if whole else node


def _hub(target: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of the test part as the hub has them."""
    scores = target["splits"]["test"]["scores"]
    return [
        {"type": HUB[key], "name": capitalise_first(NAMES[key]), "value": round(scores[key]["value"], 6)}
        for key in METRICS[target["kind"]]
        if key in scores and scores[key]["value"] is not None
    ]


def _target(
    name: str, spec: Mapping[str, Any], record: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A target: what it says, and where it was judged its scores, the verdict and its limits."""
    found: dict[str, Any] = {
        "name": name,
        **spec,
        "note": ((record or {}).get("targets", {}).get(name) or {}).get("note", ""),
    }
    target = (metrics or {}).get("targets", {}).get(name)
    if target is None:
        return found
    test, disjoint = target["splits"]["test"], bool((record or {}).get("data", {}).get("disjoint"))
    words, evidence = summarise_scores(target, disjoint=disjoint)
    others = list(test["baselines"].values())
    return found | {
        "words": words, "evidence": evidence, "caution": describe_limitations(test),
        "population": describe_clips(test, disjoint),
        "others": [one["name"] for one in others], "lead": PRIMARY[target["kind"]],
        "scores": [
            (
                capitalise_first(NAMES[key]),
                f"{format_number(test['scores'][key]['value'])} {format_interval(test['scores'][key])}".rstrip(),
                [format_number(one["scores"][key]["value"]) for one in others],
            )
            for key in METRICS[target["kind"]]
            if key in test["scores"]
        ],
    }  # fmt: skip


@lru_cache
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.export"), finalize=escaped, trim_blocks=True, lstrip_blocks=True,
        autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["json"] = lambda value: Markdown(json.dumps(value, ensure_ascii=False))
    return environment.get_template("card.md.j2")
