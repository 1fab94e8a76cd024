"""Panels of a Weights & Biases project."""

from __future__ import annotations

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
CHOSEN = ("choices.backbone", "choices.task", "choices.feature", "optim.lr", "data.batch_size")
"""Settings that the validation score is drawn over."""


@dataclass(frozen=True)
class DashboardOptions:
    """The view of a project.

    Args:
        entity: User or team that the project belongs to; needed to save the view.
        project: Name of the project.
        name: Title of the view.
        targets: Targets with panels; empty for all of conf/target.
        show: Whether the view is only printed as JSON.
    """

    entity: str = ""
    project: str = "etude"
    name: str = TITLE
    targets: tuple[str, ...] = ()
    show: bool = False


def save_or_print(options: DashboardOptions) -> None:
    """Save the view in Weights & Biases and print its address; or print the view as JSON.

    Raises:
        UserError: The extra is not installed, there is no key, or an option is missing or unknown.
        RunError: Weights & Biases does not take the view.
    """
    if not options.show and not options.entity:
        raise UserError("entity=<user or team>: a view is saved under somebody's name; show=true only prints it")
    metrics = leading(options.targets or None)
    view = workspace(options.entity or "<entity>", options.project, options.name, metrics)
    if options.show:
        print(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1))  # noqa: T201
        return
    from etude.loggers.wandb import has_key  # heavy: lightning

    if not has_key():
        raise UserError(
            "there is no key for Weights & Biases here: wandb login, or WANDB_API_KEY; show=true needs none"
        )
    try:
        print(view.save().url)  # type: ignore[no-untyped-call]  # noqa: T201
    except Exception as error:  # the client raises what its transport does
        raise RunError(f"Weights & Biases does not take the view: {str(error).splitlines()[0]}") from error


def leading(names: Sequence[str] | None = None) -> dict[str, str]:
    """The leading metric of targets, by name.

    Args:
        names: Targets; none takes all of conf/target.

    Raises:
        UserError: One of them is not there.
    """
    import yaml

    kinds: dict[str, str] = {}
    for path in sorted((conf_dir() / "target").glob("*.yaml")):
        node = next(n for n in [yaml.safe_load(path.read_text("utf-8"))] for n in (n, *n.values()) if "_target_" in n)
        kinds[path.stem] = resolve(node["_target_"]).kind
    for name in names or ():
        if name not in kinds:
            raise UserError(f"targets: there is no target {name}; there are {', '.join(kinds)}")
    return {name: PRIMARY[kinds[name]] for name in names or kinds}


def workspace(entity: str, project: str, name: str, metrics: dict[str, str]) -> Workspace:
    """The view: runs in a group for each backbone and task, and every panel showing those groups.

    Args:
        entity: Who the project belongs to.
        project: The project.
        name: The view's title.
        metrics: Leading metric of each target.

    Raises:
        UserError: The extra is not installed.
    """
    try:
        ws: Any = import_module("wandb_workspaces.workspaces")
    except ModuleNotFoundError as error:
        raise UserError("dashboard needs the extra etude[dashboard]: pip install 'etude[dashboard]'") from error
    grid = ws.RunsetSettings(groupby=[ws.Config("choices.backbone"), ws.Config("choices.task")])
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections(metrics), runset_settings=grid)


def sections(metrics: dict[str, str]) -> list[Any]:
    """Test scores, what they are above the linear model, curves, what they hang on, and the runs' own pictures."""
    wr: Any = import_module("wandb_workspaces.reports.v2")
    ws: Any = import_module("wandb_workspaces.workspaces")

    def bars(root: str, what: str) -> list[Any]:
        return [
            wr.BarPlot(
                title=f"{name}: {NAMES[metric]}{what}", metrics=[root.format(name) + metric], title_x=NAMES[metric]
            )
            for name, metric in metrics.items()
        ]

    def lines(*keys: str) -> list[Any]:
        return [wr.LinePlot(title=key, x="epoch", y=[key], title_x="epoch", title_y=key) for key in keys]

    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key)) for key in CHOSEN]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("val/score")))
    scores = [f"val/{name}/{metric}" for name, metric in metrics.items()]
    media = ["figures/scores", *(f"confusion/{n}" for n, m in metrics.items() if m == PRIMARY["label"]), "report"]
    parts = {
        "Test": bars("test/{}/", ", test"),
        "Above the linear model": bars("test/{}/over_linear/", " above the linear model, test"),
        "Scores by epoch": lines("val/score", *scores),
        "Losses by epoch": lines("train/loss", "val/loss", *(f"val/{name}/loss" for name in metrics)),
        "What the validation score hangs on": [
            wr.ParallelCoordinatesPlot(title="settings", columns=columns),
            wr.ParameterImportancePlot(with_respect_to="val/score"),
            wr.RunComparer(diff_only=True),
        ],
        "Run by run": [wr.MediaBrowser(title=key, media_keys=[key]) for key in media],
    }
    return [ws.Section(name=name, panels=panels, is_open=True) for name, panels in parts.items()]
