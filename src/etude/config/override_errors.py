"""Error messages for overrides that Hydra cannot compose, with suggestions.

Hydra stops at the first error and reports it in several lines. Here, each override is checked alone, then the config
groups together, then each key in the composed config. Hydra's own message is used only if these checks find no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from etude.config.compose import (
    Composer,
    conf_dir,
    current_config,
    list_groups,
    open_hydra,
    program_name,
    usual_keys,
)
from etude.config.overrides import (
    SWEEP_ONLY,
    ParsedOverride,
    apply_probe_settings,
    check_override,
    hydra_message,
    parse_overrides,
)
from etude.config.stored import renamed_key
from etude.config.validation import config_errors, signature
from etude.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

MAX_COMBINATIONS = 12  # maximum number of combinations of a sweep's options that are composed
GLOBAL_GROUPS = ("experiment", "debug", "sweep")  # their options may set and add any key


def override_errors(
    overrides: Sequence[str],
    sweep: bool = False,
    folder: str | Path | None = None,
    name: str = "train",
    error: Exception | None = None,
    sweep_only: str = SWEEP_ONLY,
    validate: bool = True,
) -> list[str]:
    """Return the error messages for all overrides of a command.

    Args:
        overrides: Overrides of the command.
        sweep: Whether overrides may have several values.
        folder: Folder of `--config-dir`.
        name: Name of the config to which the overrides apply.
        error: Error raised by Hydra.
        sweep_only: Error message for several values without a sweep.
        validate: Whether to validate the complete config too, as a run does.

    Returns:
        One message for each error; empty if there is none, or if `error` is not about the config.
    """
    with open_hydra(folder) as composer, composer.with_columns(overrides, name):
        parsed = [check_override(composer, text, sweep, sweep_only) for text in overrides]
        messages = [message for override in parsed for message in override.errors]
        groups = [*list_groups([conf_dir(), *([Path(folder)] if folder else [])])]
        by_combination = [
            (varied, list(_combination_errors(composer, name, parsed, selected, groups, validate)))
            for selected, varied in _combinations(parsed)
        ]
        common = [
            message
            for message in by_combination[0][1]
            if all(message in combination_messages for _, combination_messages in by_combination)
        ]
        messages += common
        messages += [
            f"{message} (with {varied})"
            for varied, combination_messages in by_combination
            for message in combination_messages
            if message not in common
        ]
        if sweep and not messages:
            messages = list(_sweep_errors(composer, name, parsed))
    return list(dict.fromkeys(messages)) or hydra_message(error) or _hydra_key_errors(overrides, error)


def format_errors(messages: Sequence[str]) -> str:
    """Return the text to print for error messages, with a heading for more than one."""
    if len(messages) == 1:
        return messages[0]
    return "\n  ".join([f"the command has {len(messages)} errors:", *messages])


def _hydra_key_errors(overrides: Sequence[str], error: Exception | None) -> list[str]:
    """Return the error message for Hydra's own keys if Hydra fails without a useful message."""
    own = [override for override in overrides if override.lstrip("+~").startswith("hydra.")]
    if error is None or not own:
        return []
    reason = "" if isinstance(error, AssertionError) else f" ({hydra_message(error, any_type=True)[0]})"
    return [f"{' '.join(own)}: Hydra does not accept this{reason}; remove it, or see {program_name()} --hydra-help"]


def _combinations(parsed: list[ParsedOverride]) -> Iterator[tuple[list[str], str]]:
    """Yield combinations of the selected options of all groups, each with the overrides that differ between them."""
    selections = [override for override in parsed if override.group and override.expanded]
    swept = [override for override in selections if len(override.expanded) > 1]
    for number, texts in enumerate(product(*(override.expanded for override in selections))):
        if number == MAX_COMBINATIONS:
            return
        varied = [text for override, text in zip(selections, texts, strict=True) if override in swept]
        yield list(texts), " ".join(varied)


def _combination_errors(
    composer: Composer, name: str, parsed: list[ParsedOverride], selected: list[str], groups: list[str], validate: bool
) -> Iterator[str]:
    """Yield the error messages for one combination of options, and for all keys in its config."""
    unknown = [override.group for override in parsed if override.group and not override.expanded]
    try:
        config = composer.compose(selected, name)
    except Exception:  # of any type; if an option also fails alone, that message is used
        yield from _selection_errors(composer, name, selected)
        return
    if any(group in GLOBAL_GROUPS for group in unknown):
        return
    valid = not any(override.errors for override in parsed)
    for override in parsed:
        if override.group or not override.expanded:
            continue
        key = override.expanded[0].partition("=")[0].lstrip("+~")
        if key.split(".")[0] in unknown:
            continue
        if message := _apply(config, override.expanded[0], groups):
            valid = False
            yield message
    if validate and not valid:
        for message in _validation_errors(config):
            if message.split(".")[0].split(":")[0] not in unknown:
                yield message


def _sweep_errors(composer: Composer, name: str, parsed: list[ParsedOverride]) -> Iterator[str]:
    """Yield the error messages for keys of all jobs that are missing when Hydra composes a config before the sweep."""
    fixed = [override for override in parsed if not override.is_swept and override.expanded]
    config = composer.compose([override.expanded[0] for override in fixed if override.group], name)
    for override in fixed:
        if not override.group and _apply(config, override.expanded[0], []):
            yield (
                f"{override.text}: Hydra requires this key before the sweep selects options; "
                f"use ++{override.text.lstrip('+')}"
            )


def _selection_errors(composer: Composer, name: str, selected: list[str]) -> Iterator[str]:
    """Yield the error message for each option that cannot be composed alone."""
    for text in selected:
        try:
            composer.compose([text], name)
        except Exception as error:
            yield _selection_error(composer, name, text, error)


def _selection_error(composer: Composer, name: str, text: str, error: Exception) -> str:
    """Return the error message for an existing option that this override cannot select."""
    key = text.partition("=")[0]
    bare = key.lstrip("+~")
    config = composer.compose([], name)
    choices = [str(choice) for choice in config.hydra.runtime.choices]
    if key.startswith("+") and bare in choices:
        return f"{text}: {bare} has an option already; remove the plus"
    if key.startswith("~"):
        option = config.hydra.runtime.choices.get(bare)
        return f"{text}: {bare} has the option {option}" if option else f"{text}: this config has no {bare}"
    if not key.startswith("+") and bare not in choices:
        near = usual_keys(bare) or [choice for choice in choices if choice.partition("@")[0] == bare.partition("@")[0]]
        hint = f"did you mean {near[0]}? otherwise add it with a plus" if near else "add it with a plus"
        return f"{text}: this config has no {bare}; {hint}: +{text}"
    missing = str(getattr(error, "missing_cfg_file", ""))
    if composer.columns and missing.startswith("task/"):  # of an experiment
        return f"{text}: {missing.replace('/', '=', 1)}: {composer.columns.unknown_task_error(missing[5:])}"
    return f"{text}: {hydra_message(error, any_type=True)[0]}"


def _apply(config: DictConfig, text: str, groups: list[str]) -> str:
    """Apply an override of a key to a config, and return the error message, or "" if there is no error."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    overrides = parse_overrides([text])
    key, _, value = text.partition("=")
    bare = key.lstrip("+~")
    if message := _renamed_key_error(config, bare):
        return message
    if not key.startswith("+") and (message := _missing_key_error(config, bare, value, groups)):
        return message  # checked before Hydra applies it, because Hydra replaces a value with a mapping
    try:
        ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
    except (HydraException, OmegaConfBaseException) as error:
        exists = _find_node(config, bare)[2]
        if exists and key.startswith("+"):
            return f"{text}: {bare} exists already; remove the plus"
        if exists and key.startswith("~"):
            return f"{text}: the key has another value; remove ={value}"
        cause: BaseException = error.__cause__ or error
        inner = str(getattr(cause, "full_key", "") or "")  # a mapping is set key by key
        if inner.startswith(f"{bare}.") and (
            message := _renamed_key_error(config, inner) or _missing_key_error(config, inner, "...", groups)
        ):
            return message
        return f"{text}: {hydra_message(error)[0]}"
    return ""


def _renamed_key_error(config: DictConfig, key: str) -> str:
    """Return the error message for a dotted key that was renamed, else "".

    An old name is valid if the config or the class of the node has this key. A user's own class may have it.
    """
    if not (new := renamed_key(key)):
        return ""
    node, depth, exists = _find_node(config, key)
    if exists or (_is_mapping(node) and key.split(".")[depth] in _parameters(node)):
        return ""
    return f"{key}: was renamed; use {new}"


def _find_node(config: DictConfig, key: str) -> tuple[Any, int, bool]:
    """Follow a dotted key in a config.

    Returns:
        The last node on the path; the number of key components that lead to this node; whether the complete key exists.
    """
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not _is_mapping(node) or part not in node.keys():  # noqa: SIM118  # `in` is false for missing values
            return node, depth, False
        node = node._get_node(part)
    return node, len(parts), True


def _missing_key_error(config: DictConfig, key: str, value: str, groups: Iterable[str] = ()) -> str:
    """Return the error message for a key that a config does not have, or "" if the config has it.

    Args:
        config: The composed config.
        key: Dotted key, such as `trainer.max_epoch`.
        value: Value of the override, as given by the user.
        groups: Names of config groups, which are suggested too.
    """
    node, depth, exists = _find_node(config, key)
    if exists:
        return ""
    parts = key.split(".")
    if not _is_mapping(node):
        return f"{key}: {'.'.join(parts[:depth])} is a value and has no keys"
    keys = [str(name) for name in node if name != "_target_"]
    if node is config:
        return _unknown_root_error(config, key, keys, sorted(groups))
    parameters = _parameters(node) + ["metrics"] * (parts[:2] == ["task", "targets"])
    if parts[depth] in parameters or not (keys or parameters):  # an empty mapping, such as weighting.weights, is open
        return f"{key}: is not in the config; add it with a plus: +{key}={value}"
    split_keys = [path.rpartition(".") for path in usual_keys(parts[depth])]
    usual = [name for parent, _, name in split_keys if parent == ".".join(parts[:depth])]
    if near := usual or get_close_matches(parts[depth], [*keys, *parameters], n=1):
        with_plus = f", added with a plus: +{'.'.join([*parts[:depth], near[0]])}={value}"
        return f"{key}: no such config key; did you mean {near[0]}{'?' if near[0] in keys else with_plus}"
    return f"{key}: no such config key; available: {', '.join(keys) or 'none'}"


def _unknown_root_error(config: DictConfig, key: str, keys: list[str], groups: list[str]) -> str:
    """Return the error message for a key whose first component is neither a config group nor a config key.

    The message suggests what other libraries call so, similar names, and keys that end with this key or its words.
    """
    reason = f"{key}: no such config group or key"
    known = [name for name in dict.fromkeys([*groups, *keys]) if name != "hydra"]
    if "/" in key:
        near = get_close_matches(key, known, n=1)
        return f"{reason}; did you mean {near[0]}?" if near else f"{reason}; available: {', '.join(known)}"
    paths = list(_key_paths(config))
    near = [path for path in paths if path.rpartition(".")[2] == key.rpartition(".")[2]][:3]
    if "." not in key:
        near = usual_keys(key.lower()) or near
        near = near or get_close_matches(key, known, n=1) or [path for path in paths if _share_words(path, key)][:3]
    elif len(near) != 1:
        near = get_close_matches(key, paths, n=1)
    if near:
        return f"{reason}; did you mean {' or '.join(near)}?"
    return f"{reason}; {program_name()} --help lists the config groups, --cfg job the config keys"


def _parameters(node: DictConfig) -> list[str]:
    """Return the parameters of the class of a node, including parameters that the config does not set."""
    if "_target_" not in node:
        return []
    try:
        target_signature = signature(str(node._get_node("_target_")))
    except LookupError:
        return []
    return [name for name in target_signature.parameters if name.isidentifier()] if target_signature else []


def _share_words(path: str, name: str) -> bool:
    """Return whether the end of a dotted key contains all words of a name, or the reverse."""
    words, other = set(path.rpartition(".")[2].split("_")), set(name.lower().split("_"))
    return words <= other or other <= words


def _key_paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values and mappings, except Hydra's own keys."""
    for name in node:
        path = prefix + str(name)
        if name in ("_target_", "choices") or path == "hydra":
            continue
        yield path
        if _is_mapping(child := node._get_node(name)):
            yield from _key_paths(child, f"{path}.")


def _is_mapping(node: Any) -> TypeGuard[DictConfig]:
    """Return whether a node contains keys."""
    from omegaconf import DictConfig

    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()


def _validation_errors(config: DictConfig) -> list[str]:
    """Return the errors that the validation of a run would find, so that all are reported together."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with current_config(config):
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            if missing := sorted(OmegaConf.missing_keys(own)):
                return [f"{key}: needs a value; add {key}=... to the command" for key in missing]
            plain: Any = OmegaConf.to_container(apply_probe_settings(own), resolve=True)
    except UserError as error:
        return str(error).splitlines()
    except OmegaConfBaseException:
        return []
    return config_errors(plain)
