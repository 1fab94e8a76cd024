"""Error messages for overrides that Hydra cannot compose, with suggestions.

Hydra stops at the first fault that it meets and says it in several lines. Here each word is judged by itself, then the
groups together, then each key against the config that they make; what Hydra said is used only where none of this
finds anything.
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


MOST = 12  # combinations of a sweep's groups that are composed to find the one that does not go
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
    """All that is wrong with the words of a command.

    Args:
        words: Overrides.
        sweep: Whether they may have several values.
        folder: That of `--config-dir`.
        name: The config that they change.
        error: What Hydra said.
        several: What is said of several values where there is no sweep.
        whole: Whether the config is wanted whole, so that what a run would find in it is said too.

    Returns:
        A sentence for each fault; empty when there is none, and when the error is not about the config.
    """
    with open_hydra(folder) as composer:
        judged = [check_override(composer, text, sweep, several) for text in words]
        found = [fault for word in judged for fault in word.faults]
        groups = [*groups_help.listing([conf_dir(), *([Path(folder)] if folder else [])])]
        tried = [
            (where, list(_together(composer, name, judged, chosen, groups, whole)))
            for chosen, where in _combinations(judged)
        ]
        everywhere = [fault for fault in tried[0][1] if all(fault in others for _, others in tried)]
        found += everywhere
        found += [f"{fault} (with {where})" for where, others in tried for fault in others if fault not in everywhere]
        if sweep and not found:
            found = list(_before(composer, name, judged))
    return list(dict.fromkeys(found)) or _said(error) or _of_hydra(words, error)


def _of_hydra(words: Sequence[str], error: Exception | None) -> list[str]:
    """Return a sentence on Hydra's own settings where Hydra fails without a message, as by an assertion."""
    own = [word for word in words if word.lstrip("+~").startswith("hydra.")]
    if error is None or not own:
        return []
    reason = "" if isinstance(error, AssertionError) else f" ({_said(error, anything=True)[0]})"
    return [f"{' '.join(own)}: Hydra does not accept this{reason}; leave it out, or see python train.py --hydra-help"]


def error_text(found: Sequence[str]) -> str:
    """Faults as what is printed: one is a line, several have a heading."""
    return found[0] if len(found) == 1 else "\n  ".join([f"the command has {len(found)} faults:", *found])


def _combinations(judged: list[ParsedOverride]) -> Iterator[tuple[list[str], str]]:
    """Choices of all groups, one of each, with those that differ between them."""
    chosen = [word for word in judged if word.group and word.instead]
    swept = [word for word in chosen if len(word.instead) > 1]
    for number, texts in enumerate(product(*(word.instead for word in chosen))):
        if number == MOST:
            return
        here = [text for word, text in zip(chosen, texts, strict=True) if word in swept]
        yield list(texts), " ".join(here)


def _together(
    composer: Composer, name: str, judged: list[ParsedOverride], chosen: list[str], groups: list[str], whole: bool
) -> Iterator[str]:
    """Faults of one combination of options and of all keys."""
    unknown = [word.group for word in judged if word.group and not word.instead]
    try:
        config = composer.compose(chosen, name)
    except Exception:  # whatever it is, the one that raises alone says it
        yield from _alone(composer, name, chosen)
        return
    if any(group in GLOBAL for group in unknown):
        return
    clean = not any(word.faults for word in judged)
    for word in judged:
        key = word.text.partition("=")[0].lstrip("+~")
        if word.group or not word.instead or key.split(".")[0] in unknown:
            continue
        if fault := _set(config, word.instead[0], groups):
            clean = False
            yield fault
    if whole and not clean:
        yield from (fault for fault in _checked(config) if fault.split(".")[0].split(":")[0] not in unknown)


def _before(composer: Composer, name: str, judged: list[ParsedOverride]) -> Iterator[str]:
    """Keys that every option of a sweep has, and not the one that Hydra composes before it begins."""
    here = [word for word in judged if not word.swept and word.instead]
    config = composer.compose([word.instead[0] for word in here if word.group], name)
    for word in here:
        if not word.group and _set(config, word.instead[0], []):
            yield f"{word.text}: Hydra wants the setting before the sweep has chosen; write ++{word.text.lstrip('+')}"


def _alone(composer: Composer, name: str, chosen: list[str]) -> Iterator[str]:
    """Which option of a group cannot be composed, tried one after the other."""
    for text in chosen:
        try:
            composer.compose([text], name)
        except Exception as error:
            yield _option(composer, name, text, error)


def _option(composer: Composer, name: str, text: str, error: Exception) -> str:
    """The sentence about an option that is there and cannot be chosen like this."""
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
    return f"{text}: {_said(error, anything=True)[0]}"


def _set(config: DictConfig, text: str, groups: list[str]) -> str:
    """Set a key as a word says; the sentence when that does not go, else ""."""
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
        return said or f"{text}: {_said(error)[0]}"
    return ""


def _checked(config: DictConfig) -> list[str]:
    """What the check of a run would say next, so that it is said at once."""
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


def _said(error: Exception | None, anything: bool = False) -> list[str]:
    """What Hydra or the reader of YAML said, in one line."""
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
