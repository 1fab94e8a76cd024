"""Parsing, checking and quoting of command-line overrides, and the settings that linear probes require."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.column_tasks import group_options, task_value_error
from etude.config.compose import BASE_GROUPS, Composer
from etude.config.stored import renamed_in_message, renamed_key, renamed_option
from etude.config.validation import NAMED_NODES
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


SWEEP_ONLY = "several values require a sweep; add -m"  # error message for several values without a sweep
NOISE = ("provider=", "full_key", "object_type", "See http", "Config search path", "Search path")


@dataclass
class ParsedOverride:
    """Parsed override with its errors.

    Args:
        text: The override as given by the user.
        errors: One error message for each error.
        group: Config group if the override selects an option, else "".
        expanded: Overrides with one value each, from the override or its probable correction. A sweep has several.
            Empty if the override is invalid and has no correction.
        is_swept: Whether the override has several values.
    """

    text: str
    errors: list[str] = field(default_factory=list)
    group: str = ""
    expanded: list[str] = field(default_factory=list)
    is_swept: bool = False


def parse_overrides(texts: Sequence[str], loader: Any = None) -> list[Override]:
    """Parse overrides by Hydra's grammar.

    Args:
        texts: Overrides such as `optim.lr=interval(1e-4,1e-2)`.
        loader: Hydra's config loader, which is needed for a glob over the options of a config group.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(config_loader=loader).parse_overrides(list(texts))


def check_override(composer: Composer, text: str, sweep: bool, sweep_only: str = SWEEP_ONLY) -> ParsedOverride:
    """Parse an override and find its errors.

    Args:
        composer: Hydra, for the available config groups.
        text: Override such as `backbone=lstm`.
        sweep: Whether the command is a sweep, in which an override may have several values.
        sweep_only: Error message for several values without a sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "\0" in text:
        return ParsedOverride(text, [f"{text!r}: contains a null byte, which is not allowed"])
    repository = composer.loader.repository
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    if new_text := _renamed_group_override(repository, text):
        parsed = check_override(composer, new_text, sweep, sweep_only)
        parsed.text, parsed.errors = text, [f"{text}: was renamed; use {new_text}", *parsed.errors]
        return parsed
    is_group = _is_group(repository, bare.partition("@")[0]) and not value.startswith("{")  # a mapping sets keys in it
    group = bare if is_group else ""
    if not equals and not text.startswith("~"):
        hint = f"; available: {', '.join(group_options(repository, bare))}" if is_group else ""
        if (path := Path(text)).exists() and (path.is_absolute() or not is_group):
            kind = "data=folder data.source.path" if path.is_dir() else "data=table data.source.table"
            hint = f"; to select it as the data, use {kind}={text}"
        return ParsedOverride(text, [f"{text or repr(text)}: is not of the form name=value{hint}"], group)
    parser = OverridesParser.create(composer.loader)
    try:
        (override,) = parser.parse_overrides([text])
    except HydraException:
        return ParsedOverride(text, [f"{text}: {_syntax_error(parser, key, value)}"], group)
    parsed = ParsedOverride(text, group=group, is_swept=override.is_sweep_override())
    values = [value]
    if parsed.is_swept:
        if not sweep:
            suggests_list = (not is_group or bare in NAMED_NODES) and value.replace(",", "").isprintable()
            hint = f", or use a list: '{key}=[{value}]'" if suggests_list else ""
            parsed.errors.append(f"{text}: {sweep_only}{hint}")
        elif override.is_hydra_override():
            parsed.errors.append(f"{text}: Hydra's own keys cannot have several values in a sweep; use one value")
        values = list(map(str, override.sweep_string_iterator())) if override.is_discrete_sweep() else []
    if override.is_delete():
        parsed.expanded = [text]
        if is_group and (new := _renamed_existing_option(repository, override.key_or_group, value)):
            parsed.errors.append(f"{text}: was renamed; use {key}={new}")
            parsed.expanded = [f"{key}={new}"]
    elif not is_group:
        parsed.expanded = [f"{key}={value}" for value in values]
    else:
        _check_options(composer, parsed, override, values)
    return parsed


def _renamed_group_override(repository: Any, text: str) -> str:
    """Return an override with the new name of its config group, as `weighting=sum` for `balance=sum`, else ""."""
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    root = re.split("[.@]", bare)[0]
    if not renamed_key(root) or _is_group(repository, root):
        return ""
    return f"{key[: len(key) - len(bare)]}{renamed_key(bare)}{equals}{value}"


def _renamed_existing_option(repository: Any, group: str, option: str) -> str:
    """Return the new name of a renamed option if only the new one exists, else ""."""
    new = renamed_option(group, option)
    exists = new and repository.config_exists(f"{group}/{new}") and not repository.config_exists(f"{group}/{option}")
    return new if exists else ""


def _check_options(composer: Composer, parsed: ParsedOverride, override: Override, values: list[str]) -> None:
    """Set the errors and corrections of an override that selects options of a config group."""
    repository = composer.loader.repository
    key, group = parsed.text.partition("=")[0], override.key_or_group
    if group == "task" and (message := task_value_error(override)):
        parsed.errors.append(message)
        return
    for text in values:
        is_list = text.startswith("[")
        names = text.strip("[]").split(",") if is_list else [text]
        options = [name.strip(" '\"") for name in names if name.strip() or not is_list]
        corrected = []
        for option in options:
            if repository.config_exists(f"{group}/{option}"):
                corrected.append(option)
                continue
            if near := _renamed_existing_option(repository, group, option):
                parsed.errors.append(f"{key}={option}: was renamed; use {key}={near}")
            else:
                message, near = _unknown_option_error(repository, group, renamed_option(group, option) or option)
                if composer.columns and group == "task" and option:
                    message = composer.columns.unknown_task_error(option, f"did you mean {near}? " if near else "")
                parsed.errors.append(f"{key}={option}: {message}")
            corrected += [near] if near else []
        if len(corrected) == len(options):
            quoted = [quote_value(option, "str") for option in corrected]
            new = f"[{','.join(quoted)}]" if is_list else quoted[0]
            parsed.expanded.append(f"{key}={text if corrected == options else new}")


def _unknown_option_error(repository: Any, group: str, option: str) -> tuple[str, str]:
    """Return the error message for an option that does not exist, and the most similar option that exists, or ""."""
    if not option:
        return f"needs an option; available: {', '.join(group_options(repository, group))}", ""
    if _is_group(repository, f"{group}/{option}"):
        inside = [f"{option}/{name}" for name in _nested_options(repository, f"{group}/{option}")]
        return f"is a folder of options; available: {', '.join(inside)}", ""
    folder = option.rpartition("/")[0]
    nested = [f"{folder}/{name}" for name in group_options(repository, f"{group}/{folder}")] if folder else []
    options = nested or (_nested_options if folder else group_options)(repository, group)
    near = get_close_matches(option, options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no such option; {hint}available: {', '.join(options) or 'none'}", near[0] if near else ""


def _syntax_error(parser: Any, key: str, value: str) -> str:
    """Return the reason why an override does not follow Hydra's grammar, and how to correct it."""
    from hydra.errors import HydraException

    try:
        parser.parse_overrides([f"{key}=1"])
    except HydraException:
        return "the key cannot be parsed; use letters, digits and dots without spaces"
    is_open = any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()"))
    if is_open or value.count("'") % 2 or value.count('"') % 2:
        return "a bracket or a quote is not closed"
    escaped = value.strip().replace("'", "\\'")
    return f"the value cannot be parsed; if it is a text, quote it twice: \"{key}='{escaped}'\""


def _is_group(repository: Any, group: str) -> bool:
    return bool(group) and repository.group_exists(group)


def _nested_options(repository: Any, group: str) -> list[str]:
    """Return the options of a config group and of the groups inside it.

    The groups in BASE_GROUPS are left out, because their files are shared and cannot be selected.
    """
    from hydra.core.object_type import ObjectType

    inner = [name for name in repository.get_group_options(group, ObjectType.GROUP) if name not in BASE_GROUPS]
    nested = [f"{name}/{option}" for name in inner for option in _nested_options(repository, f"{group}/{name}")]
    return sorted({*group_options(repository, group), *nested})


def quote_value(value: str, annotation: str = "") -> str:
    """Return a value with the quotes that Hydra's grammar needs.

    Args:
        value: Value as given by the user. `null` and quoted texts are unchanged. Lists and mappings are unchanged too,
            unless the annotation is `str`. The source parses a mapping that is quoted as text.
        annotation: Annotation of the parameter. A `str` accepts any value as text, because a folder may be named
            `[live]`, `true` or `nan`.
    """
    ends = value[:1] + value[-1:] if len(value) > 1 else ""
    options = {option.strip() for option in annotation.split("|")}
    is_text = "str" in options and options <= {"str", "None"}
    is_quoted = re.fullmatch(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", value)
    if is_quoted or value == "???" or (value == "null" and options != {"str"}):
        return value
    if not is_text:
        if ends in ("[]", "{}") and not re.search(r"[^\x00-\x7f][^][{}:,]*:", value):  # keys cannot be quoted
            return "".join(map(_quote_item, re.findall(r"""'[^']*'|"[^"]*"|[][{}:,]|[^][{}:,'"]+|['"]""", value)))
        if value.lower() in ("null", "true", "false"):
            return value
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", value)
    if plain and not (is_text and re.fullmatch(r"(?i)null|true|false|inf|nan|\.[0-9_]+(e-?[0-9_]+)?", value)):
        return value
    # Hydra's grammar reads a backslash as an escape only before a quote, which may be the closing one.
    return "'" + re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value) + "'"


def _quote_item(item: str) -> str:
    """Return an item of a list with quotes if Hydra's grammar does not allow its letters."""
    bare = item.strip()
    return item if bare.isascii() or bare[0] in "'\"" else item.replace(bare, quote_value(bare, "str"))


def hydra_message(error: Exception | None, any_type: bool = False) -> list[str]:
    """Return a list with the one-line message of an error of Hydra or the YAML reader, or an empty list.

    Args:
        error: The error.
        any_type: Whether to return the message of any other error too.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        location = f"{mark.name}: line {mark.line + 1}: " if mark else ""
        return [f"{location}{error.problem or 'is not YAML'}"]
    if error is None or not (any_type or isinstance(error, HydraException | OmegaConfBaseException)):
        return []
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(cause := error.__cause__, OmegaConfBaseException):
        lines += [line.strip() for line in str(cause).splitlines()[:1]]
    lines = [line for line in lines if not line.startswith(NOISE)]
    if new := renamed_in_message(" ".join(lines)):
        return [new]
    is_list = len(lines) > 2 and lines[1].endswith(":")  # a heading, such as "Available options", with its items
    items = [", ".join(line.strip("\t -") for line in lines[2:])] if is_list else []
    return [" ".join([*lines[:2], *items]) if lines else type(error).__name__]


LINEAR_PROBE = "etude.training.optimiser.LinearProbe"
PROBE_SETTINGS: dict[str, tuple[Any, str]] = {
    "augment": (None, "is fitted to clips without augmentation"),
    "data.crop": (None, "is fitted to complete clips (or to the mean of data.eval_crops crops)"),
    "data.crops_per_clip": (1, "is fitted to complete clips"),
    "data.balanced_sampling": (None, "is fitted to each clip once; optim.class_weights balances the classes"),
    "data.overfit": (None, "has no steps"),
    "trainer.max_epochs": (1, "has no epochs"),
    "trainer.check_val_every_n_epoch": (1, "has no epochs"),
    "trainer.accumulate_grad_batches": (1, "has no gradients"),
    "trainer.gradient_clip_val": (None, "has no gradients"),
    "compile": (False, "runs the backbone only once for each clip"),
    "head": ({"_target_": "etude.tasks.heads.Linear", "dropout": 0.0, "norm": False}, "has linear heads"),
    "weighting": ({"_target_": "etude.tasks.loss_weighting.WeightedSum", "weights": {}}, "fits each target alone"),
    "transfer.train": ("probe", "needs a frozen backbone, as with transfer=probe"),
    "transfer.layer_decay": (1.0, "has no learning rate"),
    "transfer.head_init": ("random", "fits the heads already"),
    "readout.combine": ("concat", "has no learned weights of layers"),
    "callbacks.ema": (None, "has no weights to average"),
    "callbacks.early_stopping": (None, ""),
    "callbacks.checkpoint.monitor": (None, ""),
}
"""Required value of each key, and the reason for which another value in the command is refused; "" accepts it."""
TARGET_SETTINGS: dict[str, tuple[Any, str]] = {
    "smoothing": (0.0, "is fitted to the true classes"),
    "class_weight": (None, "chooses the class weights among optim.class_weights"),
    "loss": ("mse", "minimises the squared error"),
    "bounded": (False, "has linear outputs"),
}
PROBE_GROUPS = ("head", "weighting", "transfer", "callbacks")  # groups whose options set one of these keys


def apply_probe_settings(config: DictConfig) -> DictConfig:
    """Return the config of a run with the settings that `optim=linear_probe` requires. Other configs are unchanged.

    Values of the config groups and of experiments are replaced. Values that Hydra's current command sets are refused.

    Raises:
        UserError: The command sets other values.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    if OmegaConf.select(config, "optim._target_") != LINEAR_PROBE:
        return config
    command = [str(text) for text in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []
    result, errors = config.copy(), []
    OmegaConf.set_struct(result, False)
    settings = dict(PROBE_SETTINGS)
    for name, target in (OmegaConf.select(config, "task.targets") or {}).items():
        settings |= {f"task.targets.{name}.{key}": TARGET_SETTINGS[key] for key in target if key in TARGET_SETTINGS}
        if "loss" in target and str(target.get("_target_")).endswith(".Label"):
            settings[f"task.targets.{name}.loss"] = ("cross_entropy", "minimises the cross-entropy")
    if OmegaConf.select(config, "data.eval_crops"):
        del settings["data.crop"]
    for key, (value, reason) in settings.items():
        current = OmegaConf.select(result, key)
        if (OmegaConf.to_container(current) or None if OmegaConf.is_config(current) else current) == value:
            continue
        given = [text for text in command if _sets(text.partition("=")[0].lstrip("+~"), key)]
        if given and reason:
            errors.append(f"{given[-1]}: a linear probe (optim=linear_probe) {reason}; remove it")
        if not OmegaConf.select(result, "transfer._target_") and key.startswith("transfer."):
            OmegaConf.update(result, "transfer", {"_target_": "etude.training.transfer.Transfer"})
        if key.count(".") < 2 or OmegaConf.select(result, key.rpartition(".")[0]):
            OmegaConf.update(result, key, value, merge=False)
    if (trial := OmegaConf.select(result, "choices.debug")) in ("overfit", "find_lr"):
        errors = [f"debug={trial}: a linear probe (optim=linear_probe) has no steps; remove it"]
    if "fsdp" in str(OmegaConf.select(result, "trainer.strategy")):
        errors.append("trainer.strategy: a linear probe (optim=linear_probe) cannot be sharded; use trainer=ddp")
    for name in ("kind", "lr", "weight_decay", "warmup", "schedule"):  # of an experiment with gradients
        if name in result.optim and not any(_sets(text.partition("=")[0], f"optim.{name}") for text in command):
            del result.optim[name]
    if errors:
        raise UserError("\n".join(errors))
    OmegaConf.set_struct(result, True)
    return result


def _sets(given: str, key: str) -> bool:
    """Return whether the key of an override sets a required key, a key inside it, or the option of its group."""
    return given == key or given.startswith(f"{key}.") or (given in PROBE_GROUPS and key.startswith(f"{given}."))
