"""Panels of a Weights & Biases project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.config.compose import conf_dir
from etude.config.instantiate import resolve
from etude.errors import RunError, UserError
from etude.evaluation.formatting import NAMES
from etude.evaluation.metrics import PRIMARY

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


TITLE = "backbones x tasks"
COMPARED = ("choices.backbone", "choices.task", "choices.feature", "optim.lr", "data.batch_size")
"""Options on the axes of the parallel-coordinates plot of the validation score."""


@dataclass(frozen=True)
class DashboardOptions:
    """Options of a project's view.

    Args:
        entity: User or team of the project, which is required to save the view.
        project: Name of the project.
        name: Title of the view.
        targets: Targets with panels. Empty means all of conf/target.
        dry_run: Whether the view is only returned, and not saved.
    """

    entity: str = ""
    project: str = "etude"
    name: str = TITLE
    targets: tuple[str, ...] = ()
    dry_run: bool = False


def save_or_preview(options: DashboardOptions) -> dict[str, Any]:
    """Save the view in Weights & Biases, or only return it.

    Returns:
        The address as `url`, or the view as `view`.

    Raises:
        UserError: The extra is not installed, there is no API key, or an option is missing or unknown.
        RunError: Weights & Biases rejects the view.
    """
    if not options.dry_run and not options.entity:
        raise UserError("--entity <user or team>: is required to save the view; --dry-run prints it instead")
    metrics = primary_metrics(options.targets or None)
    try:
        view = build_workspace(options.entity or "<entity>", options.project, options.name, metrics)
    except ValueError as error:  # pydantic's, whose message has several lines
        if isinstance(error, UserError):
            raise
        raise UserError(f"--name {options.name}: Weights & Biases does not accept this title") from error
    if options.dry_run:
        return {"view": json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))}
    from etude.loggers.wandb import has_key  # heavy: lightning

    if not has_key():
        raise UserError(
            "there is no API key for Weights & Biases; run wandb login or set WANDB_API_KEY; --dry-run needs no key"
        )
    try:
        url = view.save().url  # type: ignore[no-untyped-call]
    except Exception as error:  # the client also raises the exceptions of its transport
        raise RunError(f"Weights & Biases rejects the view: {str(error).splitlines()[0]}") from error
    return {"url": url}


def primary_metrics(names: Sequence[str] | None = None) -> dict[str, str]:
    """Return the primary metric of each target by name.

    Args:
        names: Names of targets, or `name:kind` for a column of the data. None means all of conf/target.

    Raises:
        UserError: A target does not exist.
    """
    import yaml

    kinds: dict[str, str] = {}
    for path in sorted((conf_dir() / "target").glob("*.yaml")):
        node = next(n for n in [yaml.safe_load(path.read_text("utf-8"))] for n in (n, *n.values()) if "_target_" in n)
        kinds[path.stem] = resolve(node["_target_"]).kind
    metrics: dict[str, str] = {}
    for text in names or kinds:
        name, _, kind = text.partition(":")
        kind = kind or kinds.get(name, "")
        if kind not in PRIMARY:
            raise UserError(
                f"--targets: there is no target {text}; the targets are {', '.join(kinds)}, and {name}:label or "
                f"{name}:scalar for a column of your data"
            )
        metrics[name] = PRIMARY[kind]
    return metrics


def build_workspace(entity: str, project: str, name: str, metrics: dict[str, str]) -> Workspace:
    """Build the view, in which all panels group the runs by backbone and task.

    Args:
        entity: User or team of the project.
        project: Name of the project.
        name: Title of the view.
        metrics: Primary metric of each target.

    Raises:
        UserError: The extra is not installed, or the title contains a symbol.
    """
    try:
        ws: Any = import_module("wandb_workspaces.workspaces")
    except ModuleNotFoundError as error:
        raise UserError("dashboard needs the extra etude[dashboard]: pip install 'etude[dashboard]'") from error
    grid = ws.RunsetSettings(groupby=[ws.Config("choices.backbone"), ws.Config("choices.task")])
    sections = build_sections(metrics)
    try:
        return ws.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=grid)
    except ValueError as error:  # of the title, because its symbols are refused as emojis
        raise UserError(f"--name {name}: symbols such as = and + are not allowed in a title; remove them") from error


def build_sections(metrics: dict[str, str]) -> list[Any]:
    """Build the sections with test scores, differences from the baseline, curves, parameters and media."""
    wr: Any = import_module("wandb_workspaces.reports.v2")
    ws: Any = import_module("wandb_workspaces.workspaces")

    def bars(root: str, suffix: str) -> list[Any]:
        return [
            wr.BarPlot(
                title=f"{name}: {NAMES[metric]}{suffix}", metrics=[root.format(name) + metric], title_x=NAMES[metric]
            )
            for name, metric in metrics.items()
        ]

    def lines(*keys: str) -> list[Any]:
        return [wr.LinePlot(title=key, x="epoch", y=[key], title_x="epoch", title_y=key) for key in keys]

    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key)) for key in COMPARED]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("val/score")))
    scores = [f"val/{name}/{metric}" for name, metric in metrics.items()]
    media = ["figures/scores", *(f"confusion/{n}" for n, m in metrics.items() if m == PRIMARY["label"]), "report"]
    panels_by_section = {
        "Test": bars("test/{}/", ", test"),
        "Above the linear model or SVM": bars("test/{}/over_statistics/", " above the linear model or SVM, test"),
        "Scores by epoch": lines("val/score", *scores),
        "Losses by epoch": lines("train/loss", "val/loss", *(f"val/{name}/loss" for name in metrics)),
        "Influences on the validation score": [
            wr.ParallelCoordinatesPlot(title="settings", columns=columns),
            wr.ParameterImportancePlot(with_respect_to="val/score"),
            wr.RunComparer(diff_only=True),
        ],
        "Run by run": [wr.MediaBrowser(title=key, media_keys=[key]) for key in media],
    }
    return [ws.Section(name=name, panels=panels, is_open=True) for name, panels in panels_by_section.items()]
