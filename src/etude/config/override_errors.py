"""Error messages for overrides that Hydra cannot compose, with suggestions.

Hydra stops at the first fault and reports it in several lines. Here each override is checked by itself, then the groups
together, then each key against the composed config. Hydra's own message is used only where these checks find no fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from etude.config import groups_help
from etude.config.compose import Composer, conf_dir, current_config, open_hydra
from etude.config.overrides import SEVERAL, ParsedOverride, check_override, parse_overrides
from etude.config.validation import problems, signature

if TYPE_CHECKING:
    from omegaconf import DictConfig


def missing(config: DictConfig, key: str, value: str, groups: Iterable[str] = ()) -> str:
    """Return the error message for a key that is not in a config; "" if it is there.

    Args:
        config: The composed config.
        key: With dots, e.g. `trainer.max_epoch`.
        value: Value of the override, as it was typed.
        groups: Names of groups, which may be suggested as well.
    """
    node: Any = config
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not _is_mapping(node):
            return f"{key}: {'.'.join(parts[:i])} is a value, not a group of settings"
        if part not in node.keys():  # noqa: SIM118  # `in` of a config is false for missing values
            break
        node = node._get_node(part)
    else:
        return ""
    there = [str(name) for name in node if name != "_target_"]
    if node is config:
        return _unknown_at_root(config, key, there, sorted(groups))
    takes = _parameters(node)
    if part in takes:
        return f"{key}: is not among the settings yet; add it with a plus: +{key}={value}"
    if near := get_close_matches(part, [*there, *takes], n=1):
        more = "" if near[0] in there else f", which a plus adds: +{'.'.join([*parts[:i], near[0]])}={value}"
        return f"{key}: no such setting; did you mean {near[0]}{more or '?'}"
    return f"{key}: no such setting; there are {', '.join(there) or 'none'}"


def _unknown_at_root(config: DictConfig, key: str, there: list[str], groups: list[str]) -> str:
    """Return the error message for a key whose first part is neither a group nor a setting.

    Suggested are similar names, and longer keys that end with it.
    """
    fault = f"{key}: no such group or setting"
    known = [name for name in dict.fromkeys([*groups, *there]) if name != "hydra"]
    if "/" in key:
        near = get_close_matches(key, known, n=1)
        return f"{fault}; did you mean {near[0]}?" if near else fault + f"; there are {', '.join(known)}"
    paths = list(_value_paths(config))
    last = key.rpartition(".")[2]
    ends = [path for path in paths if path.rpartition(".")[2] == last][:3]
    if "." not in key and (near := get_close_matches(key, known, n=1)):
        return f"{fault}; did you mean {near[0]}?"
    near = ends if len(ends) == 1 or "." not in key else get_close_matches(key, paths, n=1)
    if near:
        return f"{fault}; did you mean {' or '.join(near)}?"
    return f"{fault}; python train.py --help lists the groups, --cfg job the settings"


def _parameters(node: DictConfig) -> list[str]:
    """Return the parameters of the class of a node, whether they are set or not."""
    if "_target_" not in node:
        return []
    try:
        known = signature(str(node._get_node("_target_")))
    except LookupError:
        return []
    return [name for name in known.takes if name.isidentifier()] if known else []


def _value_paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield all keys that hold a value, with dots, except those of Hydra."""
    for name in node:
        path = prefix + str(name)
        if name in ("_target_", "choices") or path == "hydra":
            continue
        child = node._get_node(name)
        if _is_mapping(child):
            yield from _value_paths(child, f"{path}.")
        else:
            yield path


def _is_mapping(node: Any) -> TypeGuard[DictConfig]:
    """Return whether a node has settings inside."""
    from omegaconf import DictConfig

    return isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()


MAX_COMBINATIONS = 12  # of a sweep's groups; so many are composed to find the one that fails
NOISE = ("provider=", "full_key", "object_type", "See http", "Config search path", "Search path")
GLOBAL = ("experiment", "debug", "sweep")  # groups that may set, and bring, any key


def override_errors(
    words: Sequence[str],
    sweep: bool = False,
    folder: str | Path | None = None,
    name: str = "train",
    error: Exception | None = None,
    several: str = SEVERAL,
    whole: bool = True,
) -> list[str]:
    """Return all faults of the overrides of a command.

    Args:
        words: Overrides.
        sweep: Whether they may have several values.
        folder: Folder of `--config-dir`.
        name: The config that they change.
        error: Hydra's error.
        several: Error message for several values where there is no sweep.
        whole: Whether the whole config is validated too, as a run does.

    Returns:
        A sentence for each fault; empty if there is none, or if the error is not about the config.
    """
    with open_hydra(folder) as composer:
        parsed = [check_override(composer, text, sweep, several) for text in words]
        found = [fault for word in parsed for fault in word.faults]
        groups = [*groups_help.listing([conf_dir(), *([Path(folder)] if folder else [])])]
        tried = [
            (where, list(_combination_errors(composer, name, parsed, chosen, groups, whole)))
            for chosen, where in _combinations(parsed)
        ]
        everywhere = [fault for fault in tried[0][1] if all(fault in others for _, others in tried)]
        found += everywhere
        found += [f"{fault} (with {where})" for where, others in tried for fault in others if fault not in everywhere]
        if sweep and not found:
            found = list(_sweep_errors(composer, name, parsed))
    return list(dict.fromkeys(found)) or _hydra_message(error) or _hydra_setting_errors(words, error)


def _hydra_setting_errors(words: Sequence[str], error: Exception | None) -> list[str]:
    """Return a sentence on Hydra's own settings where Hydra fails without a message, as by an assertion."""
    own = [word for word in words if word.lstrip("+~").startswith("hydra.")]
    if error is None or not own:
        return []
    reason = "" if isinstance(error, AssertionError) else f" ({_hydra_message(error, anything=True)[0]})"
    return [f"{' '.join(own)}: Hydra does not accept this{reason}; leave it out, or see python train.py --hydra-help"]


def error_text(found: Sequence[str]) -> str:
    """Return the text that is printed for faults: one is a line, several have a heading."""
    return found[0] if len(found) == 1 else "\n  ".join([f"the command has {len(found)} faults:", *found])


def _combinations(parsed: list[ParsedOverride]) -> Iterator[tuple[list[str], str]]:
    """Yield combinations of the choices of all groups, each with the text of the choices that vary."""
    chosen = [word for word in parsed if word.group and word.instead]
    swept = [word for word in chosen if len(word.instead) > 1]
    for number, texts in enumerate(product(*(word.instead for word in chosen))):
        if number == MAX_COMBINATIONS:
            return
        here = [text for word, text in zip(chosen, texts, strict=True) if word in swept]
        yield list(texts), " ".join(here)


def _combination_errors(
    composer: Composer, name: str, parsed: list[ParsedOverride], chosen: list[str], groups: list[str], whole: bool
) -> Iterator[str]:
    """Yield the faults of one combination of options, and of all keys with it."""
    unknown = [word.group for word in parsed if word.group and not word.instead]
    try:
        config = composer.compose(chosen, name)
    except Exception:  # of any kind; the option that also fails alone has the message
        yield from _choice_errors(composer, name, chosen)
        return
    if any(group in GLOBAL for group in unknown):
        return
    clean = not any(word.faults for word in parsed)
    for word in parsed:
        key = word.text.partition("=")[0].lstrip("+~")
        if word.group or not word.instead or key.split(".")[0] in unknown:
            continue
        if fault := _apply(config, word.instead[0], groups):
            clean = False
            yield fault
    if whole and not clean:
        yield from (fault for fault in _validation_errors(config) if fault.split(".")[0].split(":")[0] not in unknown)


def _sweep_errors(composer: Composer, name: str, parsed: list[ParsedOverride]) -> Iterator[str]:
    """Yield the faults of keys that exist in every job, but not in the config that Hydra composes before the sweep."""
    here = [word for word in parsed if not word.swept and word.instead]
    config = composer.compose([word.instead[0] for word in here if word.group], name)
    for word in here:
        if not word.group and _apply(config, word.instead[0], []):
            yield f"{word.text}: Hydra wants the setting before the sweep has chosen; write ++{word.text.lstrip('+')}"


def _choice_errors(composer: Composer, name: str, chosen: list[str]) -> Iterator[str]:
    """Yield a fault for each option of a group that cannot be composed alone."""
    for text in chosen:
        try:
            composer.compose([text], name)
        except Exception as error:
            yield _choice_error(composer, name, text, error)


def _choice_error(composer: Composer, name: str, text: str, error: Exception) -> str:
    """Return the error message for an option that exists and cannot be chosen like this."""
    key = text.partition("=")[0]
    bare = key.lstrip("+~")
    config = composer.compose([], name)
    choices = [str(choice) for choice in config.hydra.runtime.choices]
    if key.startswith("+") and bare in choices:
        return f"{text}: {bare} has an option already; leave out the plus"
    if key.startswith("~"):
        held = config.hydra.runtime.choices.get(bare)
        return f"{text}: {bare} has the option {held}" if held else f"{text}: {bare} is not chosen in this config"
    if not key.startswith("+") and bare not in choices:
        near = [choice for choice in choices if choice.partition("@")[0] == bare.partition("@")[0]]
        hint = f"did you mean {near[0]}? a plus adds it" if near else "a plus adds it"
        return f"{text}: {bare} is not chosen in this config; {hint}: +{text}"
    return f"{text}: {_hydra_message(error, anything=True)[0]}"


def _apply(config: DictConfig, text: str, groups: list[str]) -> str:
    """Apply an override of a key to a config; return the error message where that is impossible, else ""."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = parse_overrides([text])
    key, _, value = text.partition("=")
    bare = key.lstrip("+~")
    if not key.startswith("+") and (said := missing(config, bare, value, groups)):
        return said  # before Hydra tries: it makes a mapping of a value that is in the way
    try:
        ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
    except (HydraException, OmegaConfBaseException) as error:
        there = OmegaConf.select(config, bare, throw_on_missing=False) is not None
        if there and key.startswith("+"):
            return f"{text}: {bare} is there already; leave out the plus"
        if there and key.startswith("~"):
            return f"{text}: has another value than the one to take away; leave out ={value}"
        cause: BaseException = error.__cause__ or error
        inside = str(getattr(cause, "full_key", "") or "")  # a mapping is set key by key
        said = missing(config, inside, "...", groups) if inside.startswith(f"{bare}.") else ""
        return said or f"{text}: {_hydra_message(error)[0]}"
    return ""


def _validation_errors(config: DictConfig) -> list[str]:
    """Return the faults that the validation of a run would find, to report all at once."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with current_config(config):
            mine = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            if lacking := sorted(OmegaConf.missing_keys(mine)):
                return [f"{key}: needs a value; add {key}=... to the command" for key in lacking]
            plain: Any = OmegaConf.to_container(mine, resolve=True)
    except OmegaConfBaseException:
        return []
    return problems(plain)


def _hydra_message(error: Exception | None, anything: bool = False) -> list[str]:
    """Return the message of an error of Hydra or of the YAML reader in one line.

    Args:
        error: The error.
        anything: Whether the message of any other error is returned too.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError):
        where = f"{error.problem_mark.name}: line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return [f"{where}{error.problem or 'is no YAML'}"]
    if error is None or not (anything or isinstance(error, HydraException | OmegaConfBaseException)):
        return []
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(cause := error.__cause__, OmegaConfBaseException):
        lines += [line.strip() for line in str(cause).splitlines()[:1]]
    lines = [line for line in lines if not line.startswith(NOISE)]
    return [" ".join(lines[:2]) if lines else type(error).__name__]
