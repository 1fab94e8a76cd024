"""Pages of config groups, from the files of conf/ and the classes that they configure."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from reference.option_files import (
    CONF,
    SHARED,
    Entry,
    OptionFile,
    group_files,
    parameters,
    read_option,
    resolve_targets,
)

DOCS = CONF.parent / "docs"
GROUPS = {
    "data": "The collection of clips, its splits, and the batches that a network reads.",
    "feature": "The bins of a frame and the front end that computes them.",
    "augment": "Random changes of the training clips.",
    "backbone": "The network from frames (B, T, F) to an embedding (B, D).",
    "readout": "The layers of the backbone that are read, and the method that makes an embedding of them.",
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
INTERNAL = frozenset({"seed", "packs_read_only", "n_chroma", "sync"})  # parameters that a run sets itself
FIRST = ("data/base/music",)  # included files whose keys are described before the options
LISTED = ("experiment", "sweep", "debug", "data/base/patreco_classes")  # files that are shown without a table of keys
EXPERIMENTS = """The other options are the experiments of the
[student report](../../explanations/reproduction.md), with its settings (`reproduction/`) and with ours (`improved/`).
An override is the folder and the name, such as `experiment=reproduction/table1/lstm_mel`:"""
DESCRIPTIONS = {  # of keys that no signature and no comment describes
    "seed": "Seed of weights, order of clips, crops and dropout. The split has its own seed, `data.split.seed`",
    "data.crop.seconds": "Length of a random crop in training, in s",
    "task.mode": "Direction in which the monitor improves: `max` or `min`",
    "callbacks.early_stopping": "No early stopping",
    "hydra.launcher.timeout_min": "Time limit of a job, in minutes",
}
COMMAND = re.compile(r"(|.*: )((?:python|etude) \S.*)")  # line of a comment that ends with a command
CODE = re.compile(  # keys with values and commands within a text
    r"((?<![\w.`/=-])(?:-m )?\+?[a-z][\w./]*=(?:\[[^\]]*\]|<\w+>|\.\.\.|'[^']*'|[\w/-]+(?:\.\w+)*)|pip install '[^']+')"
)
LIGHTNING = "https://lightning.ai/docs/pytorch/stable/"


def group_page(group: str) -> str:
    """Return the page of a config group."""
    options, shared = group_files(group)
    options.sort(key=lambda option: ("/" in option.path.removeprefix(f"{group}/"), option.path))
    lines = [f"# {group}", "", GROUPS[group], ""]
    if default := default_option(group):
        lines += [f"The default is `{group}={default}`.", ""]
    lines += [*option_list(options, group), ""]
    for option in shared:
        if option.path in FIRST:
            lines += [f"## Keys of all options {{ #{anchor(option.path)} }}", "", *option_section(option)]
    for option in options:
        name = option_name(option, group)
        lines += [f"## `{name}` {{ #{anchor(name)} }}", "", *option_section(option)]
    for option in shared:
        if option.path not in FIRST:
            lines += [f"## File `{option.path}.yaml` {{ #{anchor(option.path)} }}", ""]
            lines += ["Options include this file. It is not an option.", "", *option_section(option)]
    return "\n".join(lines).rstrip() + "\n"


def option_list(options: list[OptionFile], group: str) -> list[str]:
    """Return links to the options of a group, in a list with an item for each folder if there are several folders."""
    folders: dict[str, list[str]] = {}
    for option in options:
        name = option_name(option, group)
        folder, _, short = name.partition("=")[2].rpartition("/") if group == "experiment" else ("", "", "")
        folders.setdefault(folder, []).append(f"[`{short if folder else name}`](#{anchor(name)})")
    lines = [f"Options: {', '.join(folders.pop(''))}."]
    if folders:
        lines += ["", EXPERIMENTS, ""]
    return [*lines, *(f"- `{folder}/`: {', '.join(names)}" for folder, names in folders.items())]


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
    lines = paragraphs(option.comment)
    targets = resolve_targets(option)
    for target in dict.fromkeys(option.targets.values()):
        lines += [configured(target), ""]
    if included := [link for item in option.defaults for link in included_links(item, option)]:
        lines += [f"Includes {', '.join(included)}.", ""]
    rows = [_row(entry, targets) for entry in option.entries] + list(_unset_rows(option, option.targets))
    repeated = {entry.key: path for path in FIRST for entry in read_option(CONF / f"{path}.yaml").entries}
    repeated = {} if option.path in FIRST else repeated
    comments = {entry.key: markdown(as_sentence(entry.comment)) for entry in option.entries}
    if rows and not option.path.startswith(LISTED):
        lines += ['<div class="options" markdown>', "", "| key | value | description |", "|---|---|---|"]
        for key, value, text in rows:
            if key in repeated:
                text = f"{comments.get(key, '')} See [keys of all options](#{anchor(repeated[key])})."
            cell = text_cell(text)
            lines.append(f"| {key_cell(key)} | {code_cell(value)} | {cell} |")
        lines += ["", "</div>", ""]
    return [*lines, *file_block(option)]


def paragraphs(comment: list[str]) -> list[str]:
    """Return the lines of a comment as paragraphs and blocks of commands."""
    lines: list[str] = []
    text, code = "", []

    def flush() -> None:
        nonlocal text, code
        if text:
            lines.extend([markdown(as_sentence(text)), ""])
        if code:
            lines.extend(["```bash", *code, "```", ""])
        text, code = "", []

    for line in comment:
        match = COMMAND.fullmatch(line)
        before, command = match.groups() if match else (line, "")
        if before and (code or before.startswith("Changed: ")):
            flush()
        text = f"{text} {before.strip()}".strip()
        code += [command] if command else []
    flush()
    return lines


def markdown(text: str) -> str:
    """Return the text of a comment or docstring as Markdown, with keys as code and links to other pages."""
    pieces = re.split(r"(``?[^`]+``?)", text)
    for i in range(0, len(pieces), 2):
        piece = re.sub(r"(^|; )([a-z0-9_.]+): ", r"\1`\2`: ", pieces[i])  # the meaning of one value
        parts = re.split(r"(`[^`]+`)", CODE.sub(r"`\1`", piece))
        for j in range(0, len(parts), 2):
            plain = re.sub(r"docs/([\w/-]+\.md)", lambda match: page_link(match[1]), parts[j].replace("<", "&lt;"))
            parts[j] = re.sub(r"conf/(\w+)/(\w+)\.yaml", r"[`\1=\2`](\1.md#\1-\2)", plain)
        pieces[i] = "".join(parts)
    return "".join(pieces)


def page_link(page: str) -> str:
    """Return a link from the page of a group to another page, with its title."""
    title = (DOCS / page).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return f"[{title}](../../{page})"


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
    return f"Configures `{target}`. {markdown(' '.join(docstring.split(chr(10) * 2)[0].split()))}"


def included_links(item: Any, option: OptionFile) -> Iterator[str]:
    """Yield a link to each file that an item of a defaults list includes, except for the file itself."""
    if item == "_self_":
        return
    folder = option.path.rpartition("/")[0]
    pairs = [(item, "")] if isinstance(item, str) else item.items()
    for key, values in pairs:
        group = re.sub(r"^(override|optional) ", "", key).partition("@")[0]
        for value in values if isinstance(values, list) else [values]:
            path = group.removeprefix("/") if group.startswith("/") else f"{folder}/{group}"
            path = f"{path}/{value}" if value else path
            if not (CONF / f"{path}.yaml").is_file():
                yield f"`{group.removeprefix('/')}={value}`"
                continue
            file, page = read_option(CONF / f"{path}.yaml"), path.partition("/")[0]
            name = path if path in FIRST or path.split("/")[-2] in SHARED else option_name(file, page)
            yield f"[`{name}`]({'' if page == folder.partition('/')[0] else f'{page}.md'}#{anchor(name)})"


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
            return key, entry.value, f"{markdown(as_sentence(description or DESCRIPTIONS.get(key, '')))}{kind}"
    return key, entry.value, markdown(as_sentence(entry.comment or DESCRIPTIONS.get(key, "")))


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
            yield f"+{key}", parameter.default, f"{markdown(as_sentence(parameter.description))}{kind}"


def as_sentence(text: str) -> str:
    """Return a comment as a sentence. A first word in lower case that is a name or a value stays as it is."""
    if not text:
        return ""
    if re.match(r"[a-z]+(-[\w-]+)?(,? |; )", text) and not text.startswith(("null", "true", "false")):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def text_cell(text: str) -> str:
    """Return a text as the content of a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


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
