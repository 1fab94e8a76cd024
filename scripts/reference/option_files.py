"""Parsing of config files, their comments, and the signatures of the classes that they configure."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
# place of the values of a file in the config, where it is not the path of its folder
PREFIXES = {"target": "task.targets", "data/base": "data", "data/base/patreco_classes": "data.source.classes"}
SHARED = ("base", "space", "job_logging")  # folders of files that options include and that are not options


@dataclass(frozen=True)
class Entry:
    """Key of a YAML file with its value as text and its comment."""

    key: str
    value: str
    comment: str


@dataclass
class OptionFile:
    """Config file, parsed with its comments.

    Args:
        path: Path relative to the folder of configs, without suffix.
        comment: Lines of the comment at the beginning of the file.
        entries: Keys with plain values, as full config keys.
        targets: Dotted name of the configured class or function, by config key of its node.
        defaults: Items of the defaults list.
    """

    path: str
    text: str
    comment: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)
    defaults: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Parameter:
    """Parameter of a class or function with its annotation, default and description."""

    annotation: str
    default: str | None
    description: str


def read_option(path: Path) -> OptionFile:
    """Parse a config file with its comments."""
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(CONF).with_suffix("").as_posix()
    option = OptionFile(relative, text)
    lines = text.splitlines()
    header = takewhile(lambda line: line.startswith("#"), lines)
    option.comment = [line[1:].strip() for line in header if "@package" not in line]
    root = yaml.compose(text)
    group = relative.rpartition("/")[0]
    is_global = "# @package _global_" in text or not group
    prefix = "" if is_global else PREFIXES.get(relative, PREFIXES.get(group, group.replace("/", ".")))
    if root is not None:
        _walk(root, prefix, lines, option)
    return option


def _walk(node: yaml.MappingNode, prefix: str, lines: list[str], option: OptionFile) -> None:
    """Collect the keys below a node in the order of the file."""
    for key_node, value in node.value:
        if key_node.value == "defaults":
            option.defaults = yaml.safe_load(option.text)["defaults"]
            continue
        key = f"{prefix}.{key_node.value}".removeprefix(".")
        if key_node.value == "_target_":
            option.targets[prefix] = value.value
        elif isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if (comment := _comment(key_node, lines)) and "_target_" not in {name.value for name, _ in value.value}:
                content = ", ".join(f"{name.value}: {_source(item, lines)}" for name, item in value.value)
                option.entries.append(Entry(key, f"{{{content}}}", comment))
            _walk(value, key, lines, option)
        else:
            is_block = isinstance(value, yaml.SequenceNode) and not value.flow_style
            comment = _comment(key_node if is_block else value, lines)
            option.entries.append(Entry(key, _source(value, lines), comment))


def _source(node: yaml.Node, lines: list[str]) -> str:
    """Return the text of a value in one line."""
    start, end = node.start_mark, node.end_mark
    if start.line == end.line:
        return lines[start.line][start.column : end.column].strip()
    return json.dumps(yaml.safe_load("\n".join(lines[start.line : end.line])), ensure_ascii=False)


def _comment(node: yaml.Node, lines: list[str]) -> str:
    """Return the comment behind a value, with its continuation in the next lines."""
    line = node.end_mark.line if node.start_mark.line == node.end_mark.line else node.start_mark.line
    _, _, comment = lines[line].partition(" # ")
    for following in lines[line + 1 :]:
        if not comment or not following.strip().startswith("#"):
            break
        comment += " " + following.strip()[1:].strip()
    return comment.strip()


def group_files(group: str) -> tuple[list[OptionFile], list[OptionFile]]:
    """Return the options of a group, and the files that its options share."""
    files = sorted((CONF / group).rglob("*.yaml"))
    files = [path for path in files if path.name != "etude.yaml"]  # Hydra's logging, which is not an option
    shared = [path for path in files if path.parent.name in SHARED]
    return [read_option(p) for p in files if p not in shared], [read_option(p) for p in shared]


def resolve_targets(option: OptionFile) -> dict[str, str]:
    """Return the configured classes of an option and of the files that its defaults list includes."""
    targets: dict[str, str] = {}
    folder = CONF / Path(option.path).parent
    for item in option.defaults:
        name = item if isinstance(item, str) else "/".join(f"{key}/{value}" for key, value in item.items())
        name = name.partition("@")[0]
        path = (CONF / name[1:] if name.startswith("/") else folder / name).with_suffix(".yaml")
        if not name.startswith("override") and path.is_file():
            targets |= resolve_targets(read_option(path))
    return targets | option.targets


@lru_cache(maxsize=256)
def parameters(target: str) -> dict[str, Parameter]:
    """Return the parameters of a class or function. Descriptions are those of the class and of its base classes."""
    module, _, name = target.rpartition(".")
    value = getattr(importlib.import_module(module), name)
    described: dict[str, str] = {}
    for owner in reversed(value.__mro__ if inspect.isclass(value) else [value]):
        documented = [owner, owner.__dict__.get("__init__")] if inspect.isclass(owner) else [owner]
        for item in documented:
            for key, text in argument_descriptions(inspect.cleandoc(getattr(item, "__doc__", None) or "")).items():
                if not (text.startswith("As in `") and key in described):  # the text of the base class is complete
                    described[key] = text
    result = {}
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = "" if parameter.annotation is parameter.empty else parameter.annotation
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        default = None if parameter.default is parameter.empty else as_yaml(parameter.default)
        result[parameter.name] = Parameter(text, default, described.get(parameter.name, ""))
    return result


def argument_descriptions(docstring: str) -> dict[str, str]:
    """Return the descriptions in the section `Args` of a docstring in Google style."""
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring + "\n", re.MULTILINE)
    found = {}
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(match[1])) if match else ():
        names, _, description = entry.partition(":")
        for name in re.sub(r"\(.*\)", "", names).split(","):
            found[name.strip(" *")] = re.sub(r"``", "`", " ".join(description.split("\n\n")[0].split()))
    return found


def as_yaml(value: Any) -> str:
    """Return a default value as it is written in an override."""
    if isinstance(value, tuple):
        value = list(value)
    return str(value) if isinstance(value, Path) else json.dumps(value, default=str, ensure_ascii=False).strip('"')
