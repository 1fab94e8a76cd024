"""Help text of the training command with config groups, options and examples."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from etude.config.compose import check_config_dir, conf_dir, program_name

HELP = """Étude: experiments in music understanding. Every experiment is one command.

{examples}

== Config groups and their options ==
{groups}

Set any value:                   {program} trainer.max_epochs=50 data.batch_size=32
Use several trackers:            {program} 'logger=[wandb,mlflow]'
Print the config of a run:       {program} backbone=ast --cfg job
Show the flags of Hydra:         {program} --hydra-help"""
EXAMPLES = (
    ("", "genre of the demo clips, in minutes"),
    (" backbone=ast task=multitask", "one option for each config group"),
    (" -m backbone=lstm,cnn,ast task=genre,multitask", "a sweep over all pairs"),
    (" resume=outputs/<run>", "resume an interrupted run"),
)
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper")  # Hydra's own groups with options for users
BASE_GROUPS = ("base", "space")  # groups inside other groups; several options share their files, which are not options
STORED = re.compile(r'\.store\(\s*group="([\w/]+)",\s*name="(\w+)"')


def help_text(arguments: Sequence[str]) -> str:
    """Return the help of the training command.

    Args:
        arguments: Arguments of the command. Options in the folder of `--config-dir` are listed too.

    Raises:
        UserError: The folder of `--config-dir` does not exist.
    """
    parser = ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    folder = parser.parse_known_args(arguments)[0].config_dir
    check_config_dir(folder)
    groups = list_groups([conf_dir(), *([Path(folder)] if folder else [])])
    lines = [f"{group}: {', '.join(options)}" for group, options in groups.items()]
    examples = [f"  {program_name() + overrides:<61}  # {comment}" for overrides, comment in EXAMPLES]
    return HELP.format(program=program_name(), examples="\n".join(examples), groups="\n".join(lines))


def list_groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return the options of each config group. Groups and options are sorted, and Hydra's groups are last.

    Args:
        folders: Folders of configs. Each folder inside them is a config group.
    """
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*.yaml"):
            group = path.parent.relative_to(folder).as_posix().removeprefix(".")
            if group and group.rpartition("/")[2] not in BASE_GROUPS:
                groups.setdefault(group, set()).add(path.stem)
    for group, option in _stored_options():
        groups.setdefault(group, set()).add(option)
    own = sorted(group for group in groups if group.partition("/")[0] != "hydra")
    return {group: sorted(groups[group]) for group in (*own, *(name for name in HYDRA_GROUPS if name in groups))}


def _stored_options() -> Iterator[tuple[str, str]]:
    """Yield config groups and options of Hydra's plugins, read from their source because importing them is slow."""
    spec = find_spec("hydra_plugins")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in Path(folder).rglob("*.py"):
            yield from STORED.findall(path.read_text(encoding="utf-8"))
    yield from ((group, "basic") for group in HYDRA_GROUPS)  # included in Hydra
