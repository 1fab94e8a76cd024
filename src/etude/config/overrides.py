"""Parsing, checking and quoting of single command-line overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from etude.config.compose import Composer
from etude.config.groups_help import PARTS
from etude.config.validation import MAPS

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


SEVERAL = "several values make a sweep; add -m"


@dataclass
class ParsedOverride:
    """Parsed override with its faults.

    Args:
        text: The override as it was typed.
        faults: A sentence for each fault.
        group: The group of a choice, or "".
        instead: The overrides with single values that it, or its probable correction, expands to: several in a sweep,
            none where there is no correction.
        swept: Whether it has several values.
    """

    text: str
    faults: list[str] = field(default_factory=list)
    group: str = ""
    instead: list[str] = field(default_factory=list)
    swept: bool = False


def parse_overrides(texts: Sequence[str], loader: Any = None) -> list[Override]:
    """Parse overrides by Hydra's grammar.

    Args:
        texts: Such as `optim.lr=interval(1e-4,1e-2)`.
        loader: Hydra's config loader, for a glob over the options of a group.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create(config_loader=loader).parse_overrides(list(texts))


def check_override(composer: Composer, text: str, sweep: bool, several: str = SEVERAL) -> ParsedOverride:
    """Parse an override and find its faults.

    Args:
        composer: Hydra, which finds the groups.
        text: Such as `backbone=lstm`.
        sweep: Whether several values make a sweep.
        several: Error message for several values without a sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "\0" in text:
        return ParsedOverride(text, [f"{text!r}: holds a zero byte, which no setting may"])
    repository = composer.loader.repository
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    grouped = _is_group(repository, bare.partition("@")[0]) and not value.startswith("{")  # which sets keys inside it
    if not equals and not text.startswith("~"):
        known = f"; there are {', '.join(_options(repository, bare))}" if grouped else ""
        return ParsedOverride(text, [f"{text}: is not of the form name=value{known}"], bare if grouped else "")
    parser = OverridesParser.create(composer.loader)
    try:
        (override,) = parser.parse_overrides([text])
    except HydraException:
        return ParsedOverride(text, [f"{text}: {_unreadable(parser, key, value)}"], bare if grouped else "")
    word = ParsedOverride(text, group=bare if grouped else "", swept=override.is_sweep_override())
    values = [value]
    if word.swept:
        if not sweep:
            mapped = bare if not grouped or bare in MAPS else ""
            listed = f", or write a list: '{key}=[{value}]'" if mapped and value.replace(",", "").isprintable() else ""
            word.faults.append(f"{text}: {several}{listed}")
        elif override.is_hydra_override():
            word.faults.append(f"{text}: Hydra's own settings have one value in a sweep")
        values = list(map(str, override.sweep_string_iterator())) if override.is_discrete_sweep() else []
    if override.is_delete():
        word.instead = [text]
    elif not grouped:
        word.instead = [f"{key}={value}" for value in values]
    else:
        _choose(repository, word, override, values)
    return word


def _choose(repository: Any, word: ParsedOverride, override: Override, values: list[str]) -> None:
    """Set the faults and corrections of the choice of a group's options."""
    key = word.text.partition("=")[0]
    group = override.key_or_group
    for text in values:
        several = text.startswith("[")
        parts = text.strip("[]").split(",") if several else [text]
        wanted = [part.strip(" '\"") for part in parts if part.strip() or not several]
        corrected = []
        for option in wanted:
            if repository.config_exists(f"{group}/{option}"):
                corrected.append(option)
                continue
            message, near = _no_option(repository, group, option)
            word.faults.append(f"{key}={option}: {message}")
            corrected += [near] if near else []
        if len(corrected) == len(wanted):
            word.instead.append(f"{key}=[{','.join(corrected)}]" if several else f"{key}={corrected[0]}")


def _no_option(repository: Any, group: str, option: str) -> tuple[str, str]:
    """Return the message for an option that does not exist, and the nearest one that does, or ""."""
    if _is_group(repository, f"{group}/{option}"):
        inside = [f"{option}/{name}" for name in _nested_options(repository, f"{group}/{option}")]
        return f"is a folder of options; there are {', '.join(inside)}", ""
    folder = option.rpartition("/")[0]
    nested = [f"{folder}/{name}" for name in _options(repository, f"{group}/{folder}")] if folder else []
    options = nested or (_nested_options if folder else _options)(repository, group)
    near = get_close_matches(option, options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no such option; {hint}there are {', '.join(options) or 'none'}", near[0] if near else ""


def _unreadable(parser: Any, key: str, value: str) -> str:
    """Return why an override does not follow Hydra's grammar, and how to correct it."""
    from hydra.errors import HydraException

    try:
        parser.parse_overrides([f"{key}=1"])
    except HydraException:
        return "the name cannot be read; it is letters, digits and dots, without a space"
    if (
        any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()"))
        or value.count("'") % 2
        or value.count('"') % 2
    ):
        return "a bracket or a quote is left open"
    plain = value.strip().replace("'", "\\'")
    return f"the value cannot be read; if it is a text, quote it twice: \"{key}='{plain}'\""


def _is_group(repository: Any, group: str) -> bool:
    return bool(group) and repository.group_exists(group)


def _options(repository: Any, group: str) -> list[str]:
    from hydra.core.object_type import ObjectType

    return sorted(repository.get_group_options(group, ObjectType.CONFIG))


def _nested_options(repository: Any, group: str) -> list[str]:
    """Return the options of a group and of the groups in it, without those that options are composed of."""
    from hydra.core.object_type import ObjectType

    inner = [name for name in repository.get_group_options(group, ObjectType.GROUP) if name not in PARTS]
    nested = [f"{name}/{option}" for name in inner for option in _nested_options(repository, f"{group}/{name}")]
    return sorted({*_options(repository, group), *nested})


def quote_value(value: str, annotation: str = "") -> str:
    """Return a value as Hydra reads it.

    Args:
        value: As it was typed. `null`, and a text between quotes, are Hydra's own grammar. Whole lists and mappings are
            so too, unless the setting is a text; sources read a mapping that is given as text themselves.
        annotation: Type of the setting, as its source writes it. A `str` takes any value as text, as a folder may be
            named `[live]`, `true` or `nan`.
    """
    ends = value[:1] + value[-1:] if len(value) > 1 else ""
    options = {option.strip() for option in annotation.split("|")}
    is_text = "str" in options and options <= {"str", "None"}
    whole = re.fullmatch(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", value)
    if whole or value == "???" or (value == "null" and options != {"str"}):
        return value
    if not is_text:
        if ends in ("[]", "{}") and not re.search(r"[^\x00-\x7f][^][{}:,]*:", value):  # a key takes no quotes
            return "".join(map(_quote_word, re.findall(r"""'[^']*'|"[^"]*"|[][{}:,]|[^][{}:,'"]+|['"]""", value)))
        if value.lower() in ("null", "true", "false"):
            return value
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", value)
    if plain and not (is_text and re.fullmatch(r"(?i)null|true|false|inf|nan|\.[0-9_]+(e-?[0-9_]+)?", value)):
        return value
    # in Hydra's grammar backslashes count only before a quote, which may be the closing one
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value) + "'"


def _quote_word(word: str) -> str:
    """Return a piece of a list between quotes where Hydra's grammar has no such letters."""
    bare = word.strip()
    return word if bare.isascii() or bare[0] in "'\"" else word.replace(bare, quote_value(bare, "str"))
