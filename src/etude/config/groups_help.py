"""Help text of the training command: config groups, options and examples."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from etude.config.compose import conf_dir
from etude.errors import UserError

HELP = """Étude: experiments in music understanding. Every experiment is one line.

{examples}

== Groups and their options ==
{groups}

Any value can be set:            {program} trainer.max_epochs=50 data.batch_size=32
Several trackers at once:        {program} 'logger=[wandb,mlflow]'
See the config before a run:     {program} backbone=ast --cfg job
More about Hydra's own flags:    {program} --hydra-help"""
EXAMPLES = (
    ("", "genre of the embedded clips, in minutes"),
    (" backbone=ast task=multitask", "one option of a group each"),
    (" -m backbone=lstm,cnn,ast task=genre,multitask", "a sweep over all pairs"),
    (" resume=outputs/<run>", "go on with an interrupted run"),
)
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper")  # of Hydra's own groups, those that users choose from
PARTS = ("base", "space")  # groups inside groups, with the files that options are composed of
STORED = re.compile(r'\.store\(\s*group="([\w/]+)",\s*name="(\w+)"')


def text(words: Sequence[str]) -> str:
    """Return the help of the command that is running.

    Args:
        words: Its words. Options in the folder of `--config-dir` are listed too.

    Raises:
        UserError: That folder does not exist.
    """
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    folder = parser.parse_known_args(words)[0].config_dir
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--config-dir={folder}: there is no such folder")
    groups = listing([conf_dir(), *([Path(folder)] if folder else [])])
    lines = [f"{group}: {', '.join(options)}" for group, options in groups.items()]
    examples = [f"  {program() + overrides:<61}  # {comment}" for overrides, comment in EXAMPLES]
    return HELP.format(program=program(), examples="\n".join(examples), groups="\n".join(lines))


def listing(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return the options of each group, both in alphabetical order, groups of Hydra last.

    Args:
        folders: Folders of configs; each folder inside is a group.
    """
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            group = path.parent.relative_to(folder).as_posix().removeprefix(".")
            if group and group.rpartition("/")[2] not in PARTS:
                groups.setdefault(group, set()).add(path.stem)
    for group, option in _stored():
        groups.setdefault(group, set()).add(option)
    ours = sorted(group for group in groups if group.partition("/")[0] != "hydra")
    return {group: sorted(groups[group]) for group in (*ours, *(name for name in HYDRA_GROUPS if name in groups))}


def program() -> str:
    """Return the command of a training: `python train.py`, or `etude train` without a checkout."""
    script = Path(sys.argv[0]).name
    checkout = (conf_dir().parent / "pyproject.toml").is_file()
    return f"python {script}" if checkout and script not in ("etude", "__main__.py") else "etude train"


def _stored() -> Iterator[tuple[str, str]]:
    """Yield groups and options of Hydra's plug-ins, read from their text because their import is slow."""
    spec = find_spec("hydra_plugins")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in Path(folder).rglob("*.py"):
            yield from STORED.findall(path.read_text(encoding="utf-8"))
    yield from ((group, "basic") for group in HYDRA_GROUPS)  # part of Hydra
