"""Parsing, checking and quoting of single command-line overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from etude.config.compose import BASE_GROUPS, Composer
from etude.config.stored import renamed_in_message, renamed_key, renamed_option
from etude.config.validation import NAMED_NODES

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


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
        hint = f"; available: {', '.join(_options(repository, bare))}" if is_group else ""
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
        _check_options(repository, parsed, override, values)
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


def _check_options(repository: Any, parsed: ParsedOverride, override: Override, values: list[str]) -> None:
    """Set the errors and corrections of an override that selects options of a config group."""
    key = parsed.text.partition("=")[0]
    group = override.key_or_group
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
                parsed.errors.append(f"{key}={option}: {message}")
            corrected += [near] if near else []
        if len(corrected) == len(options):
            parsed.expanded.append(f"{key}=[{','.join(corrected)}]" if is_list else f"{key}={corrected[0]}")


def _unknown_option_error(repository: Any, group: str, option: str) -> tuple[str, str]:
    """Return the error message for an option that does not exist, and the most similar option that exists, or ""."""
    if not option:
        return f"needs an option; available: {', '.join(_options(repository, group))}", ""
    if _is_group(repository, f"{group}/{option}"):
        inside = [f"{option}/{name}" for name in _nested_options(repository, f"{group}/{option}")]
        return f"is a folder of options; available: {', '.join(inside)}", ""
    folder = option.rpartition("/")[0]
    nested = [f"{folder}/{name}" for name in _options(repository, f"{group}/{folder}")] if folder else []
    options = nested or (_nested_options if folder else _options)(repository, group)
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
    if (
        any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()"))
        or value.count("'") % 2
        or value.count('"') % 2
    ):
        return "a bracket or a quote is not closed"
    escaped = value.strip().replace("'", "\\'")
    return f"the value cannot be parsed; if it is a text, quote it twice: \"{key}='{escaped}'\""


def _is_group(repository: Any, group: str) -> bool:
    return bool(group) and repository.group_exists(group)


def _options(repository: Any, group: str) -> list[str]:
    from hydra.core.object_type import ObjectType

    return sorted(repository.get_group_options(group, ObjectType.CONFIG))


def _nested_options(repository: Any, group: str) -> list[str]:
    """Return the options of a config group and of the groups inside it.

    The groups in BASE_GROUPS are left out, because their files are shared and cannot be selected.
    """
    from hydra.core.object_type import ObjectType

    inner = [name for name in repository.get_group_options(group, ObjectType.GROUP) if name not in BASE_GROUPS]
    nested = [f"{name}/{option}" for name in inner for option in _nested_options(repository, f"{group}/{name}")]
    return sorted({*_options(repository, group), *nested})


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
