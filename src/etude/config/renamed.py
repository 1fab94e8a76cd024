"""Config names, commands and options of version 0.1 and the names that replaced them."""

from __future__ import annotations

import re
from collections.abc import Collection

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
    "etude.tasks.balance": {
        "Sum": "etude.tasks.loss_weighting.WeightedSum",
        "Random": "etude.tasks.loss_weighting.RandomWeighting",
        "Uncertainty": "etude.tasks.loss_weighting.UncertaintyWeighting",
    },
    "etude.tasks.surgery": {"PCGrad": "etude.tasks.loss_weighting.PCGrad"},
    "etude.tracking": {name: f"etude.loggers.{name}.{name}_logger" for name in ("mlflow", "tensorboard", "wandb")},
}


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
