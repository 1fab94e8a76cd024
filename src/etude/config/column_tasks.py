"""Options that depend on the data or on an earlier run.

A column of the data that can be a target needs no file in conf/task and conf/target. Its options exist only while a
config is composed, have the content of such files, and never replace a file. A run that starts from the weights of
another run has the same backbone and frames by default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cache
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from etude.config.instantiate import ALL, JOIN, DataColumns, inherited_nodes, read_columns, source_node
from etude.config.stored import flatten
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


TARGET_NODES: dict[str, dict[str, Any]] = {  # content of a file in conf/target by kind
    "label": {"_target_": "etude.tasks.targets.Label", "smoothing": 0.0, "class_weight": None},
    "scalar": {"_target_": "etude.tasks.targets.Scalar", "loss": "mse", "bounded": False},
}
GROUPS = ("task", "target")
DATA_KEYS = re.compile(r"(data|experiment)$|data\.(source|targets)\b")  # of overrides that select the data
SELECTED = ("backbone", "feature", "experiment")  # groups that replace those of a run in transfer.init_from
MAX_VARIANTS = 12  # maximum number of combinations of a sweep whose data are read


@cache
def loader_class() -> type[Any]:
    """Return Hydra's config loader with options for the columns of the data, and for lists of tasks."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.errors import MissingConfigException
    from hydra.types import RunMode

    class ColumnTaskLoader(ConfigLoaderImpl):
        """Config loader that reads the columns of the data if a task or a target has no file."""

        def load_configuration(
            self,
            config_name: str | None,
            overrides: list[str],
            run_mode: RunMode,
            from_shell: bool = True,
            validate_sweep_overrides: bool = True,
        ) -> DictConfig:
            inherited = _inherited(self, overrides) if run_mode == RunMode.RUN else {}
            selected = [*overrides, *(f"{group}={option}" for group, (option, _) in inherited.items())]
            config = self._load(config_name, selected, run_mode, from_shell, validate_sweep_overrides)
            for group, (_, node) in inherited.items():
                _set_values(config, group, node, overrides)
            return config

        def _load(self, config_name: str | None, overrides: list[str], run_mode: RunMode, *flags: bool) -> DictConfig:
            arguments: Any = (config_name, overrides, run_mode, *flags)
            missing = _missing_option(self, config_name, overrides) if run_mode == RunMode.MULTIRUN else ""
            try:
                if not missing:  # in a sweep, Hydra skips missing options
                    return super().load_configuration(*arguments)
            except MissingConfigException as error:
                if not (missing := _task_or_target(error)):
                    raise
            repository = _repository(self, config_name, overrides)
            with _registered(repository, [_read_columns(self, config_name, overrides)], [missing]):
                return super().load_configuration(*arguments)

        def _parse_overrides_and_create_caching_repo(self, config_name: str | None, overrides: list[str]) -> Any:
            parsed, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
            for override in parsed:
                if override.key_or_group == "task" and isinstance(value := override.value(), list):
                    override._value = JOIN.join(map(str, value))
            load = repository.load_config

            def load_config(config_path: str) -> Any:
                loaded: Any = load(config_path)
                for default in (loaded and loaded.defaults_list) or []:
                    if getattr(default, "group", "") in ("task", "/task") and isinstance(default.value, list):
                        default.value = JOIN.join(map(str, default.value))
                return loaded

            repository.load_config = load_config  # type: ignore[method-assign]
            return parsed, repository

    return ColumnTaskLoader


def _inherited(loader: Any, overrides: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the option and values of groups that a command does not select, of the run in `transfer.init_from`."""
    if not any("transfer.init_from=" in text for text in overrides):  # most commands need no parser here
        return {}
    parsed = _parse(overrides, loader)
    given = {re.split("[./@]", override.key_or_group)[0] for override in parsed if not override.is_delete()
             and (override.key_or_group in SELECTED or "/" in override.key_or_group)}  # fmt: skip
    sources = [override.value() for override in parsed if override.key_or_group == "transfer.init_from"]
    if "experiment" in given or not sources or not isinstance(sources[-1], str):
        return {}
    nodes = inherited_nodes(sources[-1])
    repository = _repository(loader, None, overrides)
    return {group: (option, node) for group, (option, node) in nodes.items()
            if group not in given and repository.config_exists(f"{group}/{option}")}  # fmt: skip


def _set_values(config: DictConfig, group: str, node: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Set the values of a group, except those that an override of the command sets."""
    from omegaconf import OmegaConf

    for key, value in flatten(node, f"{group}.").items():
        if not any(f"{key}.".startswith(f"{text.lstrip('+').partition('=')[0]}.") for text in overrides):
            OmegaConf.update(config, key, value, force_add=True)


@contextmanager
def use_column_tasks() -> Iterator[None]:
    """Let Hydra create config loaders with options for the columns of the data until the block ends."""
    from hydra._internal import hydra

    original = hydra.ConfigLoaderImpl  # type: ignore[attr-defined]
    hydra.ConfigLoaderImpl = loader_class()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        hydra.ConfigLoaderImpl = original  # type: ignore[attr-defined]


@contextmanager
def register_columns(loader: Any, name: str | None, overrides: Sequence[str]) -> Iterator[DataColumns | None]:
    """Add options for the columns of the data of a command until the block ends, for a check of its overrides.

    Args:
        loader: Config loader.
        name: Name of the config to which the overrides apply.
        overrides: Overrides of the command, which may be a sweep.

    Yields:
        The columns, of all data that the sweep selects; None if all tasks and targets have files.
    """
    parsed = _parse(overrides, loader)
    repository = _repository(loader, name, overrides)
    variants = list(islice(_variants(parsed), MAX_VARIANTS))
    requested = [task for override in parsed if override.key_or_group == "task" for task in _selected_tasks(override)]
    missing = [f"task/{task}" for task in requested if not repository.config_exists(f"task/{task}")]
    missing += [path for variant in variants if (path := _missing_option(loader, name, variant))]
    if not missing:
        yield None
        return
    of_data = dict.fromkeys(tuple(text for text in variant if not text.startswith("task=")) for variant in variants)
    found = [_read_columns(loader, name, variant) for variant in of_data]
    columns = DataColumns(tasks=tuple(group_options(repository, "task")))
    for other in found:
        columns.targets |= other.targets
        columns.unused |= other.unused
        columns.error = columns.error or other.error
    columns.unused = {key: reason for key, reason in columns.unused.items() if key not in columns.targets}
    with _registered(repository, found, missing):
        yield columns


def _missing_option(loader: Any, name: str | None, overrides: Sequence[str]) -> str:
    """Return a task or target without a file that overrides select, such as `task/mood`, or ""."""
    from hydra.errors import MissingConfigException
    from hydra.types import RunMode

    try:
        loader.compute_defaults_list(name, list(overrides), RunMode.RUN)
    except MissingConfigException as error:
        return _task_or_target(error)
    except Exception:  # of any type; the composition raises it again
        return ""
    return ""


def _task_or_target(error: Any) -> str:
    """Return the missing option of Hydra's error if it is a task or a target, else ""."""
    path = str(error.missing_cfg_file)
    return path if path.startswith(tuple(f"{group}/" for group in GROUPS)) else ""


def _read_columns(loader: Any, name: str | None, overrides: Sequence[str]) -> DataColumns:
    """Return the columns of the data of a command, without decoding audio.

    The data are those of the config without the overrides of the task.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.types import RunMode

    tasks = group_options(_repository(loader, name, overrides), "task")
    parsed = [override for override in _parse(overrides, loader) if not _is_override_of(override, GROUPS)]
    for selected in (parsed, [override for override in parsed if DATA_KEYS.match(override.key_or_group)]):
        texts = [*filter(None, map(_first_value, selected)), *(f"task={task}" for task in tasks[:1])]
        with suppress(Exception):  # of any type, also of other overrides; the complete composition raises it again
            config = ConfigLoaderImpl.load_configuration(loader, name, texts, RunMode.RUN)
            break
    else:
        return DataColumns()
    if not hasattr(loader, "columns_by_source"):  # a command composes many configs of the same data
        loader.columns_by_source = {}
    try:
        source = source_node(config)
        key = json.dumps(source, sort_keys=True, default=str)
        if key not in loader.columns_by_source:
            loader.columns_by_source[key] = read_columns(source)
        columns: DataColumns = loader.columns_by_source[key]
        return columns
    except (UserError, OSError) as error:
        return DataColumns(error=str(error))


@contextmanager
def _registered(repository: Any, found: Sequence[DataColumns], missing: Sequence[str]) -> Iterator[None]:
    """Add options for columns that have no files to Hydra's store of configs until the block ends.

    Args:
        repository: Folders of configs.
        found: Columns of the data.
        missing: Missing options. Of them, the lists of tasks are added too.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    before = {group: store.repo.get(group) for group in GROUPS}
    kinds = {column: kind for columns in found for column, kind in columns.targets.items()}
    options: dict[str, Any] = {f"target/{column}": {column: dict(TARGET_NODES[kind])} for column, kind in kinds.items()}
    tasks = {ALL: list(found[0].targets)} if found and found[0].targets else {}
    tasks = {column: [column] for column in kinds} | tasks
    for path in missing:
        group, _, joined = path.partition("/")
        if group == "task" and joined not in tasks and JOIN in joined:
            parts = [_targets_of_task(repository, joined, part) or tasks.get(part, []) for part in joined.split(JOIN)]
            if all(parts):
                tasks[joined] = list(dict.fromkeys(target for part in parts for target in part))
    options |= {f"task/{task}": _task_node(targets) for task, targets in tasks.items()}
    try:
        for group in GROUPS:
            store.repo[group] = deepcopy(before[group]) or {}
        for path, node in options.items():
            if not repository.config_exists(path):
                group, _, option = path.rpartition("/")
                store.store(group=group, name=option, node=node, package="task" if path.startswith("task/") else None)
        yield
    finally:
        for group, content in before.items():
            store.repo.pop(group, None)
            if content is not None:
                store.repo[group] = content


def _targets_of_task(repository: Any, joined: str, task: str) -> list[str]:
    """Return the targets of a file in conf/task, or [] if there is no such file.

    Raises:
        UserError: The file sets more than targets, and cannot be combined with other tasks.
    """
    if not repository.config_exists(f"task/{task}"):
        return []
    loaded = repository.load_config(f"task/{task}")
    targets = [default.value for default in loaded.defaults_list if getattr(default, "group", "") == "/target"]
    if len(targets) != 1 or set(loaded.config) - {"monitor", "mode"}:
        raise UserError(
            f"task=[{joined.replace(JOIN, ',')}]: {task} of conf/task sets more than targets, so that it cannot be "
            f"in a list; use task={task} alone"
        )
    return list(targets[0]) if isinstance(targets[0], list) else [str(targets[0])]


def _task_node(names: list[str]) -> dict[str, Any]:
    """Return the content of a file in conf/task."""
    targets = names[0] if len(names) == 1 else names
    return {"defaults": [{"/target@targets": targets}, "_self_"], "monitor": "val/score", "mode": "max"}


def _repository(loader: Any, name: str | None, overrides: Sequence[str]) -> Any:
    """Return the folders of configs, including those that the config of this name or an override adds."""
    folders = [text for text in overrides if text.startswith("hydra.searchpath=")]
    return loader._parse_overrides_and_create_caching_repo(name, folders)[1]


def group_options(repository: Any, group: str) -> list[str]:
    """Return the options of a config group."""
    from hydra.core.object_type import ObjectType

    return sorted(repository.get_group_options(group, ObjectType.CONFIG))


def task_value_error(override: Override) -> str:
    """Return the error message for a value that Hydra parses as a number or null instead of a task, or ""."""
    if override.is_sweep_override() or isinstance(override.value(), str | list):
        return ""
    value = str(override.input_line).partition("=")[2]
    return f"{override.input_line}: is not a text; to select a column of this name, use \"task='{value}'\""


def _parse(overrides: Sequence[str], loader: Any = None) -> list[Override]:
    """Return the overrides that follow Hydra's grammar. Errors of others are reported elsewhere."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed = OverridesParser.create(config_loader=loader), []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException:
            continue
    return parsed


def _is_override_of(override: Override, keys: Sequence[str]) -> bool:
    """Return whether an override selects an option of one of these groups, or sets a key in it."""
    return override.key_or_group.partition(".")[0] in keys


def _values(override: Override) -> list[str]:
    """Return an override with each of its values, or [] if it is a range of numbers."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        return []
    key = str(override.input_line).partition("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _first_value(override: Override) -> str:
    return next(iter(_values(override)), "")


def _variants(parsed: Sequence[Override]) -> Iterator[list[str]]:
    """Yield the overrides with all combinations of values that select the data, and the first of other values."""
    choices = [
        _values(override) if _is_override_of(override, ("data", "experiment", "task")) else _values(override)[:1]
        for override in parsed
    ]
    for texts in product(*(values for values in choices if values)):
        yield list(texts)


def _selected_tasks(override: Override) -> list[str]:
    """Return the tasks that an override selects. The names of a list are joined."""
    names = []
    for single in _parse(_values(override)):
        value = None if single.is_delete() else single.value()
        names += [JOIN.join(map(str, value))] if isinstance(value, list) else [value] if isinstance(value, str) else []
    return names
