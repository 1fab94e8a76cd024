"""A key that the config does not have, and the nearest that it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeGuard

from etude.signature import signature

if TYPE_CHECKING:
    from omegaconf import DictConfig


def missing(config: DictConfig, key: str, value: str, groups: Iterable[str] = ()) -> str:
    """The sentence about a key that is not in a config; "" when it is.

    Args:
        config: The composed config.
        key: With dots, e.g. `trainer.max_epoch`.
        value: What it should have been set to, as it was typed.
        groups: Names of groups, which a key may have meant as well.
    """
    node: Any = config
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not _holds(node):
            return f"{key}: {'.'.join(parts[:i])} is a value, not a group of settings"
        if part not in node.keys():  # noqa: SIM118  # of itself a config denies what has no value yet
            break
        node = node._get_node(part)
    else:
        return ""
    there = [str(name) for name in node if name != "_target_"]
    if node is config:
        return _at_the_root(config, key, there, sorted(groups))
    takes = _takes(node)
    if part in takes:
        return f"{key}: is not among the settings yet; add it with a plus: +{key}={value}"
    if near := get_close_matches(part, [*there, *takes], n=1):
        more = "" if near[0] in there else f", which a plus adds: +{'.'.join([*parts[:i], near[0]])}={value}"
        return f"{key}: no such setting; did you mean {near[0]}{more or '?'}"
    return f"{key}: no such setting; there are {', '.join(there) or 'none'}"


def _at_the_root(config: DictConfig, key: str, there: list[str], groups: list[str]) -> str:
    """A first part that is neither a group nor a setting: it may be near to one, or the end of a longer key."""
    what = f"{key}: no such group or setting"
    known = [name for name in dict.fromkeys([*groups, *there]) if name != "hydra"]
    if "/" in key:
        near = get_close_matches(key, known, n=1)
        return f"{what}; did you mean {near[0]}?" if near else what + f"; there are {', '.join(known)}"
    paths = list(_paths(config))
    last = key.rpartition(".")[2]
    ends = [path for path in paths if path.rpartition(".")[2] == last][:3]
    if "." not in key and (near := get_close_matches(key, known, n=1)):
        return f"{what}; did you mean {near[0]}?"
    near = ends if len(ends) == 1 or "." not in key else get_close_matches(key, paths, n=1)
    if near:
        return f"{what}; did you mean {' or '.join(near)}?"
    return f"{what}; python train.py --help lists the groups, --cfg job the settings"


def _takes(node: DictConfig) -> list[str]:
    """What the class of a node takes, whether it is set or not."""
    if "_target_" not in node:
        return []
    try:
        known = signature(str(node._get_node("_target_")))
    except LookupError:
        return []
    return [name for name in known.takes if name.isidentifier()] if known else []


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys that hold a value, with dots; those of Hydra are not asked for by mistake."""
    for name in node:
        path = prefix + str(name)
        if name in ("_target_", "choices") or path == "hydra":
            continue
        child = node._get_node(name)
        if _holds(child):
            yield from _paths(child, f"{path}.")
        else:
            yield path


def _holds(node: Any) -> TypeGuard[DictConfig]:
    """Whether a node has settings inside."""
    from omegaconf import DictConfig

    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
