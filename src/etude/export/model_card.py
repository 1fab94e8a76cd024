"""Model card of an export, in Markdown with YAML metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.audio.frontend import FrontEnd, JointFrontEnd
from etude.evaluation.formatting import (
    NAMES,
    capitalise_first,
    format_count,
    format_interval,
    format_number,
    format_sentence,
)
from etude.evaluation.score_summary import (
    are_splits_disjoint,
    count_trained_clips,
    describe_clips,
    describe_copies,
    describe_earlier_training,
    known_groups,
    list_limitations,
    summarise_scores,
)
from etude.inference.windows import window_step

if TYPE_CHECKING:
    from jinja2 import Template

    from etude.export.graph import Graph
    from etude.inference.model import Model


# characters with an effect in Markdown, and the start of a list or a heading
MARKUP = re.compile(r"([\\`*_\[\]|#~$])|^(?=[-+=])")
FILE = "README.md"
METRICS = {
    "label": ("macro_f1", "accuracy", "macro_precision", "macro_recall"),
    "scalar": ("spearman", "ccc", "r2", "mae", "mse"),
}
# identifiers of metrics and licences on the Hugging Face Hub
HUB_METRICS = {"macro_f1": "f1", "macro_precision": "precision", "macro_recall": "recall", "accuracy": "accuracy",
       "spearman": "spearmanr", "ccc": "ccc", "r2": "r_squared", "mae": "mae", "mse": "mse"}  # fmt: skip
HUB_LICENCES = re.compile(
    r"cc0-1\.0|cc-by(-2\.0|-2\.5|(-sa|-nc|-nc-sa|-nc-nd)?-[34]\.0|-nd-4\.0)|mit|apache-2\.0|bsd-3-clause|l?gpl-3\.0"
)


class Markdown(str):
    """Markdown that is not escaped."""


@dataclass(frozen=True)
class ExportedFile:
    """Entry of the table of files.

    Args:
        name: Name of the file.
        size: Size in bytes.
        differences: Largest differences from the outputs of the network, as text.
    """

    name: str
    size: int
    differences: str


def render_card(
    metadata: Mapping[str, Any],
    files: Sequence[ExportedFile],
    check_clips: str,
    record: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Return the model card.

    Args:
        metadata: Description of the network from `describe`.
        files: Exported files.
        check_clips: Description of the clips of the parity check.
        record: Content of record.json; None for a checkpoint without a run.
        metrics: Content of metrics.json; None if the run was not evaluated.
    """
    import yaml

    header = yaml.safe_dump(
        front_matter(metadata, files, record, metrics), allow_unicode=True, sort_keys=False, width=1000
    )
    targets = [_describe_target(name, spec, record, metrics) for name, spec in metadata["targets"].items()]
    text = _load_template().render(
        metadata=metadata, files=files, check_clips=check_clips, record=record, data=(record or {}).get("data", {}),
        targets=targets, formats=[file.name for file in files], resamples=(metrics or {}).get("resamples"),
        front_end_settings=", ".join(f"{key} {value}" for key, value in metadata["front_end_settings"].items()),
        title=(record or {}).get("name") or "Étude network", code=code, fenced=fenced,
        format_count=format_count, format_sentence=format_sentence, capitalise_first=capitalise_first,
        number=format_number,
        earlier_training=[*describe_copies(record or {}), *describe_earlier_training(record or {})],
        groups_known=known_groups((record or {}).get("data", {}), (metrics or {}).get("targets", {})),
    )  # fmt: skip
    return f"---\n{header}---\n\n{text}"


def escaped(value: object) -> str:
    """Return a value as text without Markdown, HTML tags and line breaks."""
    if isinstance(value, Markdown):
        return value
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKUP.sub(lambda match: f"\\{match[0]}", text)


def code(value: object) -> Markdown:
    """Return a value as inline code that is also valid in a table."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if len(fence) > 1 else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def fenced(text: str, language: str = "") -> Markdown:
    """Return a fenced code block."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markdown(f"{fence}{language}\n{text.strip(chr(10))}\n{fence}")


def describe(model: Model, graph: Graph | None) -> dict[str, Any]:
    """Describe a network for its card and for the metadata of exported files.

    Args:
        model: The network.
        graph: The exported graph; None if only weights are exported.

    Returns:
        Plain values without paths of this machine. `window` is the length of a window in seconds, None if it is
        unknown, and `window_samples`, `step_samples` and `single_samples` are the samples of a window, between the
        starts of two, and of the longest audio that is a single window. `min_seconds` is the length below which a clip
        is skipped.
    """
    recipe, front, plan = model.network.recipe, model.front, model.plan()
    is_known = model.has_clip_length and front.sync == "none" and front.rate > 1
    return {
        "version": version("etude"),
        "input": graph.input_name if graph else None,
        "backbone": type(model.network.backbone).__name__,
        "front_end": type(front).__name__,
        "front_end_settings": _front_end_settings(front),
        "rate": front.rate,
        "bins": recipe["bins"],
        "frames_per_second": front.frames_per_second,
        "dim": model.network.readout.dim,
        "variable_length": graph.variable_length if graph else True,
        "min_length": graph.min_length if graph else 1,
        "window": round(plan.seconds, 3) if is_known else None,
        "window_samples": plan.samples if is_known else None,
        "step_samples": window_step(plan.samples, plan.hop) if is_known else None,
        "single_samples": plan.single_samples if is_known else None,
        "min_seconds": plan.shortest or None,
        "crop": plan.crop if plan.crops else None,
        "crops": plan.crops,
        "targets": model.columns.targets,
    }


def _front_end_settings(front: FrontEnd) -> dict[str, Any]:
    """Return the parameters of a front end, or the names and sample rates of those of an ensemble."""
    if isinstance(front, JointFrontEnd):
        return {type(own).__name__: f"{own.rate} Hz" for own in front.fronts}
    return {key: value for key, value in front.to_dict().items() if key != "_target_"}


def config_content(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json, the recipe of the network without folder names of this machine."""
    return {
        "library_name": "etude", "model_type": "etude", "etude_version": version("etude"),
        "etude": _portable_recipe(recipe),
    }  # fmt: skip


def _portable_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a network, and of the members of an ensemble, without folder names of this machine."""
    members = {"members": [_portable_recipe(member) for member in recipe["members"]]} if "members" in recipe else {}
    return {**recipe, "config": _strip_folders(recipe["config"]), **members}


def front_matter(
    metadata: Mapping[str, Any],
    files: Sequence[ExportedFile],
    record: Mapping[str, Any] | None,
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the metadata that the Hugging Face Hub reads.

    It contains the licence of the training data, and the test scores unless the initial weights were trained on test
    clips, because the Hub would rank these scores without the warning of the card.
    """
    licences = [str(name).lower() for name in (record or {}).get("data", {}).get("licences", {})]
    licence = licences[0] if len(licences) == 1 and HUB_LICENCES.fullmatch(licences[0]) else "other"
    header: dict[str, Any] = {"license": licence}
    if licence == "other":
        header["license_name"] = "see-training-data" if licences else "unknown"
    tags = ["music", "audio", *(["onnx"] if any(file.name.endswith(".onnx") for file in files) else [])]
    header |= {"library_name": "etude", "pipeline_tag": "audio-classification", "tags": [*tags, *metadata["targets"]]}
    results = [
        {
            "task": {"type": "audio-classification", "name": name},
            "dataset": {"type": record["data"]["name"], "name": record["data"]["title"], "split": "test"},
            "metrics": scores,
        }
        for name, target in (metrics or {}).get("targets", {}).items()
        if record is not None and not count_trained_clips(record, "test") and (scores := _hub_scores(target))
    ]
    return header | ({"model-index": [{"name": record["name"], "results": results}]} if results and record else {})


def _strip_folders(node: Any) -> Any:
    """Replace all absolute paths in a config by their file names."""
    if isinstance(node, Mapping):
        return {key: _strip_folders(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_strip_folders(value) for value in node]
    is_path = isinstance(node, str) and (Path(node).is_absolute() or node.startswith("~"))
    return Path(node).name if is_path else node


def _hub_scores(target: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the test scores of a target in the format of the Hugging Face Hub."""
    scores = target["splits"]["test"]["scores"]
    return [
        {"type": HUB_METRICS[key], "name": capitalise_first(NAMES[key]), "value": round(scores[key]["value"], 6)}
        for key in METRICS[target["kind"]]
        if key in scores and scores[key]["value"] is not None
    ]


def _describe_target(
    name: str, spec: Mapping[str, Any], record: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the description of a target, with test scores, their summary and limitations if it was evaluated."""
    description: dict[str, Any] = {
        "name": name,
        **spec,
        "note": ((record or {}).get("targets", {}).get(name) or {}).get("note", ""),
    }
    target = (metrics or {}).get("targets", {}).get(name)
    if target is None:
        return description
    test, disjoint = target["splits"]["test"], are_splits_disjoint((record or {}).get("data", {}), {name: target})
    summary, evidence = summarise_scores(target, disjoint=disjoint)
    baselines = list(test["baselines"].values())
    return description | {
        "summary": summary, "evidence": evidence, "caution": " ".join(list_limitations(test)),
        "population": describe_clips(test, disjoint),
        "baselines": [baseline["name"] for baseline in baselines],
        "scores": [
            (
                capitalise_first(NAMES[key]),
                f"{format_number(test['scores'][key]['value'])} {format_interval(test['scores'][key])}".rstrip(),
                [format_number(baseline["scores"][key]["value"]) for baseline in baselines],
            )
            for key in METRICS[target["kind"]]
            if key in test["scores"]
        ],
    }  # fmt: skip


@lru_cache
def _load_template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.export"), finalize=escaped, trim_blocks=True, lstrip_blocks=True,
        autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("card.md.j2")
