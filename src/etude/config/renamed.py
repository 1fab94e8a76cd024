"""Config names of version 0.1 and the names that replaced them."""

from __future__ import annotations

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
