"""The model card: what the network hears and says, what it was trained on, how good it is, and how a file is run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from etude.export import markdown
from etude.results.metrics import PRIMARY
from etude.results.text import NAMES, capital, ends, number, plural, sentence
from etude.results.verdict import caution, population, verdict

if TYPE_CHECKING:
    from jinja2 import Template

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


@dataclass(frozen=True)
class File:
    """A file that a card is about.

    Args:
        name: Its name.
        size: In bytes.
        tried: How far it is from the network, in words.
    """

    name: str
    size: int
    tried: str


def card(
    about: Mapping[str, Any],
    files: Sequence[File],
    whose: str,
    record: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown with a head of YAML.

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
        title=(record or {}).get("name") or "a network of Étude", code=markdown.code, fenced=markdown.fenced,
        settings=settings, plural=plural, sentence=sentence, capital=capital, number=number,
    )  # fmt: skip
    return f"---\n{head}---\n\n{text}"


def front_matter(
    about: Mapping[str, Any],
    files: Sequence[File],
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


def _hub(target: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores of the test part as the hub has them."""
    scores = target["splits"]["test"]["scores"]
    return [
        {"type": HUB[key], "name": capital(NAMES[key]), "value": round(scores[key]["value"], 6)}
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
    words, evidence = verdict(target, disjoint=disjoint)
    others = list(test["baselines"].values())
    return found | {
        "words": words, "evidence": evidence, "caution": caution(test), "population": population(test, disjoint),
        "others": [one["name"] for one in others], "lead": PRIMARY[target["kind"]],
        "scores": [
            (
                capital(NAMES[key]),
                f"{number(test['scores'][key]['value'])} {ends(test['scores'][key])}".rstrip(),
                [number(one["scores"][key]["value"]) for one in others],
            )
            for key in METRICS[target["kind"]]
            if key in test["scores"]
        ],
    }  # fmt: skip


@lru_cache
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.export"), finalize=markdown.escaped, trim_blocks=True, lstrip_blocks=True,
        autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["json"] = lambda value: markdown.Written(json.dumps(value, ensure_ascii=False))
    return environment.get_template("card.md.j2")
