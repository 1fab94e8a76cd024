"""Panels of a Weights & Biases project."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from etude.config.compose import conf_dir
from etude.config.instantiate import resolve
from etude.errors import UserError
from etude.evaluation.formatting import NAMES
from etude.evaluation.metrics import PRIMARY

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


CHOSEN = ("choices.backbone", "choices.task", "choices.feature", "optim.lr", "data.batch_size")
"""Settings that the validation score is drawn over."""


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
