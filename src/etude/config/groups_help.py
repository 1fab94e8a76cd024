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
OF_HYDRA = ("hydra/launcher", "hydra/sweeper")  # of Hydra's own groups, those that somebody chooses
PARTS = ("base", "space")  # groups inside groups that hold what options are made of
STORED = re.compile(r'\.store\(\s*group="([\w/]+)",\s*name="(\w+)"')


def text(words: Sequence[str]) -> str:
    """The help of the command that is running.

    Args:
        words: Its words, of which `--config-dir` matters: options in that folder are listed too.

    Raises:
        UserError: That folder is not there.
    """
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    mine = parser.parse_known_args(words)[0].config_dir
    if mine is not None and not Path(mine).is_dir():
        raise UserError(f"--config-dir={mine}: there is no such folder")
    groups = listing([conf_dir(), *([Path(mine)] if mine else [])])
    lines = [f"{group}: {', '.join(options)}" for group, options in groups.items()]
    examples = [f"  {program() + words:<61}  # {what}" for words, what in EXAMPLES]
    return HELP.format(program=program(), examples="\n".join(examples), groups="\n".join(lines))


def listing(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Groups and their options, both in alphabetical order, those of Hydra last.

    Args:
        folders: Folders of configs, of which each folder inside is a group.
    """
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            group = path.parent.relative_to(folder).as_posix().removeprefix(".")
            if group and group.rpartition("/")[2] not in PARTS:
                found.setdefault(group, set()).add(path.stem)
    for group, option in _stored():
        found.setdefault(group, set()).add(option)
    ours = sorted(group for group in found if group.partition("/")[0] != "hydra")
    return {group: sorted(found[group]) for group in (*ours, *(name for name in OF_HYDRA if name in found))}


def program() -> str:
    """How the command for a training was called: `python train.py`, or `etude train` without a checkout."""
    script = Path(sys.argv[0]).name
    checkout = (conf_dir().parent / "pyproject.toml").is_file()
    return f"python {script}" if checkout and script not in ("etude", "__main__.py") else "etude train"


def _stored() -> Iterator[tuple[str, str]]:
    """Groups and options that plug-ins of Hydra bring, read from their text: their import is what takes long."""
    spec = find_spec("hydra_plugins")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in Path(folder).rglob("*.py"):
            yield from STORED.findall(path.read_text(encoding="utf-8"))
    yield from ((group, "basic") for group in OF_HYDRA)  # which come with Hydra
