"""Reading of the stored config of an earlier run, and the names of version 0.1 with the names that replaced them.

A stored config may come from an untrusted source.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from etude.errors import UserError

log = logging.getLogger(__name__)
PRETRAINED = "pretrained"  # backbone.weights of an encoder whose backbone.model is a checkpoint
OUTPUT_KEYS = ("data.packs", "logger.mlflow.uri")  # output locations that may be overridden together with resume
RECIPE_GROUPS = ("backbone", "readout", "head", "task", "weighting", "augment", "optim", "feature")  # in checkpoints
MAX_VALUES = 100_000  # values of a config; YAML aliases can expand a few lines to billions of values
REMOTE_SCHEMES = ("http", "https", "databricks")  # schemes of tracker addresses that are not local paths
# Config groups and dotted keys; the new name also replaces the old one at the beginning of longer keys.
KEYS = {
    "balance": "weighting",
    "data.balance": "data.balanced_sampling",
    "optim.decay": "optim.schedule",
    "transfer.every": "transfer.unfreeze_every",
    "sweep.lab_ast": "sweep.reproduction_ast",
    "sweep.better_ast": "sweep.improved_ast",
}
# Options by config group. A name that ends with a slash is a folder of options.
OPTIONS = {
    "callbacks": {"no_stopping": "no_early_stopping"},
    "data": {"lab": "patreco", "lab_affect": "patreco_affect", "lab_joint": "patreco_joint"},
    "data/base": {"lab_classes": "patreco_classes"},
    "debug": {"lr": "find_lr"},
    "experiment": {"lab/": "reproduction/", "better/": "improved/"},
    "feature/front": {"lab": "patreco"},
    "sweep": {
        "lab_all": "reproduction",
        "lab_table1": "reproduction_table1",
        "lab_table2": "reproduction_table2",
        "lab_table3": "reproduction_table3",
        "lab_step9": "reproduction_step9",
    },
    "sweep/base": {"lab": "reproduction"},
}
COMMANDS = {"latent": "maps"}
# Options of commands other than train, which had the form key=value. The other options kept their names.
COMMAND_OPTIONS = {"to": "out", "part": "split", "batch": "batch-size", "table": "layout", "show": "dry-run"}
COMMAND_VALUES = {"layout": {"1": "classes", "2": "metrics", "3": "settings"}}
# Targets by the name of their old module.
TARGETS = {
    "etude.data.feature": {"Feature": "etude.data.batches.Feature"},
    "etude.tasks.balance": {
        "Sum": "etude.tasks.loss_weighting.WeightedSum",
        "Random": "etude.tasks.loss_weighting.RandomWeighting",
        "Uncertainty": "etude.tasks.loss_weighting.UncertaintyWeighting",
    },
    "etude.tasks.surgery": {"PCGrad": "etude.tasks.loss_weighting.PCGrad"},
    "etude.loggers.csv": {
        "csv_logger": "etude.loggers.base.csv_logger",
        "tensorboard_logger": "etude.loggers.base.tensorboard_logger",
    },
    "etude.loggers.tensorboard": {"tensorboard_logger": "etude.loggers.base.tensorboard_logger"},
    "etude.tracking": {
        "mlflow": "etude.loggers.mlflow.mlflow_logger",
        "tensorboard": "etude.loggers.base.tensorboard_logger",
        "wandb": "etude.loggers.wandb.wandb_logger",
    },
}


def readout_name(readout: Mapping[str, Any] | None) -> str | None:
    """Return the name of a read-out for tables, such as `default` or `all_mean_std`, or None if it is unknown.

    Args:
        readout: Config of the read-out. Configs of older versions have none, for the backbone's own embedding.
    """
    if not readout:
        return "default"
    if "layers" not in readout:  # the common values of several runs
        return None
    layers, pooling, combine = (readout.get(key) for key in ("layers", "pooling", "combine"))
    if layers is None:
        return "default"
    if not isinstance(layers, str):
        layers = "_".join(["layer" if len(layers) == 1 else "layers", *map(str, layers)])
    names = [layers, "" if pooling == "mean" else pooling, "" if combine == "concat" else combine]
    return "_".join(str(name) for name in names if name)


def readout_suffix(readout: Mapping[str, Any] | None, default: str = "default") -> str:
    """Return the read-out as the end of the name of a run, such as `_all_mean_std`, or "" for the default.

    Args:
        readout: Config of the read-out.
        default: Name of the read-out that the run's experiment selects.
    """
    name = readout_name(readout) or "default"
    return "" if name == default else f"_{name}"


def weights_name(backbone: Mapping[str, Any] | None) -> str | None:
    """Return the last part of the initial weights in a config of a backbone, or None for random weights.

    It is that of `backbone.weights`, or of the checkpoint in `backbone.model`, such as `MERT-v1-95M`.
    """
    values = backbone if isinstance(backbone, Mapping) else {}
    weights = values.get("weights")
    return PurePath(str(values.get("model") if weights == PRETRAINED else weights)).name if weights else None


def weights_override(backbone: Mapping[str, Any]) -> str | None:
    """Return the override of `weights_name`, such as `backbone.weights=msd`, or None for random weights."""
    key, name = "model" if backbone.get("weights") == PRETRAINED else "weights", weights_name(backbone)
    return f"backbone.{key}={name}" if name else None


def pretrained_weights(target: str) -> str | None:
    """Return the name of the embedded weights of a backbone by its `_target_`, or None if it has none."""
    return {"EfficientAT": "mn04_as", "Musicnn": "msd"}.get(target.rpartition(".")[2])


def backbone_name(option: str, backbone: Any) -> str:
    """Return the name of a backbone in that of a run: its option, or of the option `hf` its checkpoint.

    Args:
        option: Option of the config group `backbone`.
        backbone: Composed config of the backbone, whose `model` may be missing.
    """
    from omegaconf import OmegaConf

    if option != "hf" or OmegaConf.is_missing(backbone, "model"):
        return option
    return re.sub(r"[^\w.+-]+", "-", PurePath(str(backbone.get("model"))).name).strip("-.") or option


def output_overrides() -> list[str]:
    """Return the overrides of the current Hydra command, without `resume`.

    Raises:
        UserError: The command overrides keys other than output locations.
    """
    from hydra.core.hydra_config import HydraConfig

    overrides = [override for override in HydraConfig.get().overrides.task if not override.startswith("resume=")]
    if others := [override for override in overrides if override.partition("=")[0] not in OUTPUT_KEYS]:
        raise UserError(f"{' '.join(others)}: cannot be changed, because resume uses the run's own config; remove it")
    return overrides


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config.yaml, with interpolations as plain text.

    Raises:
        UserError: The file cannot be read, or is not the config of a run.
    """
    import yaml
    from omegaconf import OmegaConf

    shown = os.path.relpath(path)
    try:
        if (n_values := _count_values(yaml.compose(path.read_text("utf-8"), yaml.SafeLoader), {})) > MAX_VALUES:
            raise ValueError(f"it has {n_values:.0e} values")
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # the parser raises errors of many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shown}: cannot be read as a config ({reason}); the run cannot be resumed") from error
    if not isinstance(config, dict) or not {"data", "feature", "backbone", "task", "trainer"} <= set(config):
        raise UserError(f"{shown}: is not a config; the run cannot be resumed")
    return {str(key): value for key, value in config.items()}


def _count_values(node: Any, counts: dict[int, int]) -> int:
    """Return the number of values in a YAML node after all aliases are expanded.

    Args:
        node: Node composed by PyYAML.
        counts: Counts of nodes by identity; -1 for a node that is being counted.

    Raises:
        ValueError: A node contains itself.
    """
    if id(node) not in counts:
        counts[id(node)] = -1
        content = getattr(node, "value", None)
        items = content if isinstance(content, list) else []
        counts[id(node)] = 1 + sum(_count_values(child, counts) for item in items for child in _item_nodes(item))
    elif counts[id(node)] < 0:
        raise ValueError("it contains itself")
    return counts[id(node)]


def _item_nodes(item: Any) -> tuple[Any, ...]:
    """Return the node of an item of a sequence, or the nodes of key and value of an item of a mapping."""
    return item if isinstance(item, tuple) else (item,)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted keys. A list is one value.

    Args:
        config: The config.
        prefix: Text before each key.
    """
    values: dict[str, Any] = {}
    for key, item in config.items():
        if isinstance(item, dict) and item:
            values |= flatten(item, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = item
    return values


def common_values(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values that are equal in all configs, also those of nested mappings."""
    common: dict[str, Any] = {}
    for key, value in configs[0].items():
        values = [config.get(key) for config in configs]
        if all(other == value for other in values):
            common[key] = value
        elif all(isinstance(other, Mapping) for other in values):
            common[key] = common_values([other for other in values if isinstance(other, Mapping)])
    return common


def relocate(config: dict[str, Any], folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Update the output locations in a stored config.

    A stored location is used if it is below the working directory, or if it contains the run's folder. Packs in other
    locations are read but not written. The folders of callbacks are set again when the callbacks are built.

    Args:
        config: The stored config, which is changed in place.
        folder: The run's folder.
        overrides: `key=value` for the output locations that the command line replaces.

    Returns:
        The config.
    """
    named = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in overrides)}
    outputs = str(config.get("outputs") or "outputs")
    if not (is_trusted := _is_trusted_path(outputs, folder)):
        config["outputs"] = str(folder.parent)
    if isinstance(data := config.get("data"), dict):
        packs = str(data.get("packs") or "outputs/packs")
        below = is_trusted and ".." not in Path(packs).parts and _real_path(packs).is_relative_to(_real_path(outputs))
        data["packs"] = named.get("data.packs", packs)
        data["packs_read_only"] = "data.packs" not in named and not below and not _is_trusted_path(packs, folder)
    mlflow = (config.get("logger") or {}).get("mlflow")
    if isinstance(mlflow, dict):
        uri = str(mlflow.get("uri") or "")
        if "logger.mlflow.uri" in named:
            mlflow["uri"] = named["logger.mlflow.uri"]
        elif uri and uri.partition(":")[0] not in REMOTE_SCHEMES and not _is_trusted_database(uri, folder):
            log.warning("logger.mlflow.uri: the stored %s is not used; add logger.mlflow.uri=... to use it", uri)
            mlflow["uri"] = None
    return config


def _is_trusted_path(path: str, folder: Path) -> bool:
    """Return whether a stored location is below the working directory or contains the run's folder."""
    full = _real_path(path)
    inside = full.is_relative_to(Path.cwd().resolve()) or folder.resolve().is_relative_to(full)
    return inside and ".." not in Path(path).parts


def _is_trusted_database(uri: str, folder: Path) -> bool:
    """Return whether the file of a stored SQLite address is in a trusted location."""
    scheme, _, path = uri.partition(":///")  # a fourth slash makes the path absolute
    return scheme == "sqlite" and _is_trusted_path(path, folder)


def _real_path(path: str) -> Path:
    return Path(path).resolve()


def renamed_key(key: str) -> str:
    """Return the new name of a config group or dotted key, or "" if it was not renamed.

    Args:
        key: For example `balance`, `balance@package`, `balance.rate` or `optim.decay`.
    """
    for old, new in KEYS.items():
        rest = key.removeprefix(old)
        if rest != key and (not rest or rest[0] in ".@"):
            return new + rest
    return ""


def renamed_option(group: str, option: str) -> str:
    """Return the new name of an option or a folder of options of a config group, or "" if it was not renamed."""
    for old, new in OPTIONS.get(group, {}).items():
        if option == old:
            return new
        if old.endswith("/") and f"{option}/".startswith(old):
            return f"{new}{option[len(old) :]}".rstrip("/")
    return ""


def renamed_target(target: str) -> str:
    """Return the new name of a class or function of a `_target_`, or "" if it was not renamed."""
    module, _, name = target.rpartition(".")
    return TARGETS.get(module, {}).get(name, "")


def renamed_in_message(message: str) -> str:
    """Return the error message for an old name in a defaults list, or "" if Hydra's message contains none.

    Args:
        message: Hydra's message about a defaults list, in one line.
    """
    prefix = match[0] if (match := re.match(r"In '[^']+': ", message)) else ""
    if match := re.search(r"Could not find '([\w/]+)/([\w.-]+)'", message):
        group, option = match.groups()
        if new := renamed_key(group):
            return f"{prefix}{group}: was renamed; use {new}"
        if new := renamed_option(group, option):
            return f"{prefix}{group}: {option}: was renamed; use {group}: {new}"
    match = re.search(r"Could not override '([^']+)'", message)
    new = renamed_key(match[1]) if match else ""
    return f"{prefix}{match[1]}: was renamed; use {new}" if match and new else ""


def renamed_command_option(key: str, value: str, names: Collection[str]) -> str:
    """Return the present form of an option that version 0.1 wrote as key=value, or "" if there is none.

    Args:
        key: Name of the option, such as `to` or `page`.
        value: Value, such as `results` or `false`.
        names: Names of the options of the command, such as `--out` and `--no-page`.
    """
    name = COMMAND_OPTIONS.get(key, key)
    if f"--{name}" not in names:
        return f"--where {key}={value}" if "--where" in names else ""
    if f"--no-{name}" in names:
        return {"true": f"--{name}", "false": f"--no-{name}"}.get(value.lower(), f"--{name} or --no-{name}")
    if value.lower() in ("true", "false"):
        return f"--{name}" if value.lower() == "true" else f"no --{name}"
    return f"--{name} {COMMAND_VALUES.get(name, {}).get(value, value)}"
