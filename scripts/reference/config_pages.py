"""Pages of config groups, from the files of conf/ and the classes that they configure."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = {
    "data": "The collection of clips, its splits, and the batches that a network reads.",
    "feature": "The bins of a frame and the front end that computes them.",
    "augment": "Random changes of the training clips.",
    "backbone": "The network from frames (B, T, F) to an embedding (B, D).",
    "head": "The layers from an embedding to the output of one target. Each target has a head of its own.",
    "target": "A quantity that a network predicts. A task selects targets; their keys begin with `task.targets`.",
    "task": "The targets of a run, and the monitored score that selects an epoch or a trial.",
    "weighting": "The method that combines the losses of several targets.",
    "transfer": "The initial weights, and the layers that are trained.",
    "optim": "The optimiser and the schedule of its learning rate.",
    "trainer": "Devices, precision and number of epochs, which Lightning's `Trainer` receives.",
    "callbacks": "Checkpoints, early stopping and averages of weights.",
    "logger": "Trackers that receive the results of a run.",
    "debug": "Short runs that check a setting.",
    "experiment": "Named combinations of options.",
    "sweep": "Named grids and searches, for `python train.py -m`.",
    "hydra": "Launchers, which start the jobs of a sweep, and sweepers, which choose their values.",
}
# place of the values of a file in the config, where it is not the path of its folder
PREFIXES = {"target": "task.targets", "data/base": "data", "data/base/patreco_classes": "data.source.classes"}
SHARED = ("base", "space", "job_logging")  # folders of files that options include and that are not options
INTERNAL = frozenset({"seed", "packs_read_only", "n_chroma", "sync"})  # parameters that a run sets itself
LISTED = ("experiment", "sweep", "debug", "data/base/patreco_classes")  # files that are shown without a table of keys
DESCRIPTIONS = {  # of keys that no signature and no comment describes
    "seed": "Seed of weights, order of clips, crops and dropout. The split has its own seed, `data.split.seed`",
    "data.crop.seconds": "Length of a random crop in training, in s",
    "task.mode": "Direction in which the monitor improves: `max` or `min`",
    "callbacks.early_stopping": "No early stopping",
    "hydra.launcher.timeout_min": "Time limit of a job, in minutes",
}
LIGHTNING = "https://lightning.ai/docs/pytorch/stable/"


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
        comment: Comment at the beginning of the file.
        entries: Keys with plain values, as full config keys.
        targets: Dotted name of the configured class or function, by config key of its node.
        defaults: Items of the defaults list.
    """

    path: str
    text: str
    comment: str = ""
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
    option.comment = " ".join(line[1:].strip() for line in header if "@package" not in line)
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
            _walk(value, key, lines, option)
        else:
            option.entries.append(Entry(key, _source(value, lines), _comment(value, lines)))


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
            described |= argument_descriptions(inspect.cleandoc(getattr(item, "__doc__", None) or ""))
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


def group_page(group: str) -> str:
    """Return the page of a config group."""
    options, shared = group_files(group)
    lines = [f"# {group}", "", GROUPS[group], ""]
    if default := default_option(group):
        lines += [f"The default is `{group}={default}`.", ""]
    names = [option_name(option, group) for option in options]
    if group not in ("hydra",) and len(names) <= 20:
        lines += ["Options: " + ", ".join(f"[`{name}`](#{anchor(name)})" for name in names) + ".", ""]
    for option in shared:
        lines += [f"## Shared: `{option.path}.yaml` {{ #{anchor(option.path)} }}", ""]
        lines += option_section(option)
    for option in options:
        name = option_name(option, group)
        lines += [f"## `{name}` {{ #{anchor(name)} }}", ""]
        lines += option_section(option)
    return "\n".join(lines).rstrip() + "\n"


def option_name(option: OptionFile, group: str) -> str:
    """Return the override that selects an option."""
    if group == "hydra" or option.path.startswith("feature/front"):
        folder, _, name = option.path.rpartition("/")
        return f"{folder}={name}"
    return f"{group}={option.path.removeprefix(f'{group}/')}"


def anchor(name: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def option_section(option: OptionFile) -> list[str]:
    """Return the description, the table of keys and the file of an option."""
    lines = [f"{as_sentence(option.comment)}\n"] if option.comment else []
    targets = resolve_targets(option)
    for target in dict.fromkeys(option.targets.values()):
        lines += [configured(target), ""]
    if included := [f"`{_included(item)}`" for item in option.defaults if _included(item)]:
        lines += [f"Includes {', '.join(included)}.", ""]
    rows = [_row(entry, targets) for entry in option.entries if not entry.key.startswith("hydra.sweeper.params")]
    rows += list(_unset_rows(option, option.targets))
    space = [entry for entry in option.entries if entry.key.startswith("hydra.sweeper.params")]
    rows += [
        (entry.key.removeprefix("hydra.sweeper.params."), entry.value, "searched or combined values") for entry in space
    ]
    if rows and not option.path.startswith(LISTED):
        lines += ['<div class="options" markdown>', "", "| key | value | description |", "|---|---|---|"]
        lines += [f"| {key_cell(key)} | {code_cell(value)} | {text_cell(text)} |" for key, value, text in rows]
        lines += ["", "</div>", ""]
    return [*lines, *file_block(option)]


def file_block(option: OptionFile) -> list[str]:
    """Return a block that opens to show the text of a file."""
    lines = [f"    {line}".rstrip() for line in option.text.splitlines()]
    return [f'??? abstract "conf/{option.path}.yaml"', "", "    ```yaml", *lines, "    ```", ""]


def configured(target: str) -> str:
    """Return a sentence about the class or function that an option configures."""
    if not target.startswith(("etude.", "hydra_plugins.")):
        return f"Configures [`{target}`]({LIGHTNING})."
    module, _, name = target.rpartition(".")
    docstring = inspect.getdoc(getattr(importlib.import_module(module), name)) or ""
    summary = " ".join(docstring.split("\n\n")[0].split())
    return f"Configures `{target}`: {summary[:1].lower()}{summary[1:]}"


def _included(item: Any) -> str:
    """Return an item of a defaults list as text, or an empty string for the file itself."""
    if item == "_self_":
        return ""
    if isinstance(item, str):
        return item
    listed = {key: ",".join(value) if isinstance(value, list) else value for key, value in item.items()}
    return ", ".join(f"{key.removeprefix('override ')}={value}" for key, value in listed.items())


def _row(entry: Entry, targets: dict[str, str]) -> tuple[str, str, str]:
    """Return key, value and description of a key of a file."""
    key = node = entry.key
    while node:
        node = node.rpartition(".")[0]
        if node in targets:
            rest = key.removeprefix(f"{node}.").split(".")
            found = parameters(targets[node]).get(rest[0])
            own = targets[node].startswith(("etude.", "hydra_plugins."))
            if found is None:
                break
            text = found.description if len(rest) == 1 else ""
            text = (text if own else re.split(r"(?<=\.) ", text)[0]) or entry.comment
            comment = "" if own and len(rest) == 1 and found.description else entry.comment
            description = comment if comment and not own else text
            kind = f" *{found.annotation}*" if found.annotation and own and len(rest) == 1 else ""
            return key, entry.value, f"{as_sentence(description or DESCRIPTIONS.get(key, ''))}{kind}"
    return key, entry.value, as_sentence(entry.comment or DESCRIPTIONS.get(key, ""))


def _unset_rows(option: OptionFile, targets: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the parameters with a default that no file of an option sets."""
    known = {entry.key for entry in option.entries}
    for item in option.defaults:
        if isinstance(item, str) and (CONF / Path(option.path).parent / f"{item}.yaml").is_file():
            known |= {entry.key for entry in read_option(CONF / Path(option.path).parent / f"{item}.yaml").entries}
    for node, target in targets.items():
        if not target.startswith("etude.") or node.startswith(("data", "feature", "hydra", "callbacks", "logger")):
            continue
        for name, parameter in parameters(target).items():
            key = f"{node}.{name}"
            is_set = any(item == key or item.startswith(f"{key}.") for item in known)
            if parameter.default is None or is_set or name in INTERNAL:
                continue
            kind = f" *{parameter.annotation}*" if parameter.annotation else ""
            yield f"+{key}", parameter.default, f"{as_sentence(parameter.description)}{kind}"


def as_sentence(text: str) -> str:
    """Return a comment as a sentence."""
    if not text:
        return ""
    text = text[0].upper() + text[1:] if text[0].islower() and " " in text[:40] else text
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def text_cell(text: str) -> str:
    """Return a text as the content of a table cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def key_cell(text: str) -> str:
    """Return a key as code that can break after a dot."""
    return f"<code>{text.replace('.', '.<wbr>')}</code>"


def code_cell(text: str) -> str:
    """Return a text as code in a table cell."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def default_option(group: str) -> str:
    """Return the option that a run uses if the group is not set."""
    for item in yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]:
        if isinstance(item, dict) and group in item:
            return str(item[group] or "")
    return ""
