"""Composition of configs by Hydra, and help with the config groups.

No other folder uses Hydra's private interface.
"""

from __future__ import annotations

import re
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.column_tasks import register_columns, use_column_tasks
from etude.config.instantiate import DataColumns
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.experimental.callback import Callback
    from omegaconf import DictConfig


RESOLVERS = {  # functions by the name that configs call them with; they are imported when a config calls them
    "checkpoint_front": "etude.embeddings.checkpoints.front_values",
    "data_name": "etude.system.distributed.data_name",
    "checkpoint_config": "etude.embeddings.checkpoints.network_values",
    "fold_names": "etude.data.from_overrides.fold_names",
    "readout_suffix": "etude.config.stored.readout_suffix",
    "backbone_name": "etude.config.stored.backbone_name",
    "pretrained_weights": "etude.config.stored.pretrained_weights",
}
OTHER_NAMES = {  # names in other libraries, by the override that sets the value here
    "trainer.max_epochs": "epoch epochs n_epochs num_epochs max_epoch", "optim.lr": "learning_rate rate",
    "optim.weight_decay": "wd decay", "optim.schedule": "scheduler lr_scheduler", "data.batch_size": "batch bs",
    "data.split.kind": "split", "backbone": "model network encoder arch", "data": "dataset", "task": "target targets",
    "trainer.devices": "gpu gpus device n_gpus ngpu", "trainer.precision": "amp fp16 bf16",
    "data=folder data.source.path": "path folder dir audio data_dir", "data=table data.source.table": "table csv file",
    "backbone.weights": "weights pretrained", "transfer=full transfer.init_from": "init_from checkpoint ckpt finetune",
    "logger": "wandb mlflow tensorboard", "readout": "pooling", "feature": "frontend", "sweep=folds": "cv kfold",
    "feature.front.rate": "sr", "outputs": "output output_dir",
}  # fmt: skip


def usual_keys(name: str) -> list[str]:
    """Return the overrides that set what other libraries call `name`."""
    return [key for key, names in OTHER_NAMES.items() if name in names.split()]


def register_resolvers() -> None:
    """Register the functions of RESOLVERS."""
    from omegaconf import OmegaConf

    from etude.config.instantiate import resolve

    for name, target in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, lambda *values, target=target: resolve(target)(*values), replace=True)


def conf_dir() -> Path:
    """Return the folder of configs. It is in the installed package, or beside src/ in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def program_name() -> str:
    """Return the training command, which is `python train.py` in a checkout, unless `etude` was called."""
    script = Path(sys.argv[0])
    is_etude = script.name == "etude" or (script.name == "__main__.py" and script.parent.name == "etude")
    return "python train.py" if (conf_dir().parent / "train.py").is_file() and not is_etude else "etude train"


# The options of our launchers have the names of submitit's, so that Hydra validates them with submitit's types, as
# intended. Hydra imports launchers in a block whose filters it discards.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/submitit_\w+' is validated")


class Composer:
    """Hydra with conf/ and the other folders of its search path.

    Args:
        hydra: Hydra as created by `open_hydra`.

    Attributes:
        loader, columns: Hydra's config loader, and the columns of the data in `with_columns` if a task has no file.
    """

    def __init__(self, hydra: Hydra) -> None:
        self._hydra = hydra
        self.loader: Any = hydra.config_loader
        self.columns: DataColumns | None = None

    @contextmanager
    def with_columns(self, overrides: Sequence[str], name: str) -> Iterator[None]:
        """Add the columns of the data as options of `task` until the block ends, if a task has no file."""
        with register_columns(self.loader, name, overrides) as self.columns:
            yield

    def compose(self, overrides: Sequence[str], name: str = "train") -> DictConfig:
        """Return the composed config with Hydra's own node.

        Args:
            overrides: Overrides of the command line.
            name: Name of the config to which the overrides apply.

        Raises:
            Exception: Hydra cannot compose the config; `override_errors` returns the reason.
        """
        from hydra.types import RunMode

        return self._hydra.compose_config(name, list(overrides), RunMode.RUN)

    def run(self, task: Callable[[Any], Any], overrides: Sequence[str]) -> None:
        """Compose a config, and run a task with it in the folder that is set in the config.

        Args:
            task: Function that is called with the composed config.
            overrides: Overrides of the command line.
        """
        self._hydra.run("train", task, list(overrides), with_log_configuration=False)


@contextmanager
def open_hydra(folder: str | Path | None = None) -> Iterator[Composer]:
    """Open Hydra on conf/, and restore Hydra's previous state afterwards.

    Args:
        folder: Folder with further options, as with `--config-dir`. They take precedence over the options in conf/.

    Raises:
        UserError: The folder does not exist.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    check_config_dir(folder)
    register_resolvers()
    before = Singleton._instances.pop(GlobalHydra, None)
    version.setbase("1.3")
    try:
        path = create_config_search_path(str(conf_dir()))
        if folder is not None:
            path.prepend("command-line", f"file://{Path(folder).absolute()}", SearchPathQuery(provider="schema"))
        with use_column_tasks():
            yield Composer(Hydra.create_main_hydra2("train", path))
    finally:
        Singleton._instances.pop(GlobalHydra, None)
        if before is not None:
            Singleton._instances[GlobalHydra] = before


def check_config_dir(folder: str | Path | None) -> None:
    """Check that the folder of `--config-dir` exists.

    Raises:
        UserError: The folder does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--config-dir={folder}: there is no such folder")


@contextmanager
def current_config(config: DictConfig) -> Iterator[None]:
    """Resolve Hydra's interpolations from a composed config until the block ends."""
    from hydra.core.hydra_config import HydraConfig

    current = HydraConfig.instance()
    before = current.cfg
    current.set_config(config)
    try:
        yield
    finally:
        current.cfg = before


def run_hydra(task: Callable[[Any], Any], first_callback: Callback, before_write: Callable[[Path, str], None]) -> None:
    """Run a task by `hydra.main` with the command line of this process.

    Hydra raises errors instead of printing them. `HYDRA_FULL_ERROR=1` has the same effect, but child processes would
    inherit this variable.

    Args:
        task: Function that is called with the composed config.
        first_callback: Callback that is called before the callbacks of the config. No config can remove it.
        before_write: Function that is called with the folder and the name of a file before Hydra writes the file.
    """
    import hydra

    register_resolvers()
    with use_column_tasks(), _patched_hydra(first_callback, before_write):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(task)()


@contextmanager
def _patched_hydra(first_callback: Callback, before_write: Callable[[Path, str], None]) -> Iterator[None]:
    """Replace the functions of Hydra that report errors, create callbacks and write files, until the block ends."""
    from hydra._internal import hydra, utils
    from hydra._internal.callbacks import Callbacks
    from hydra.core import utils as jobs

    report, callbacks, save_config = utils.run_and_report, hydra.Callbacks, jobs._save_config  # type: ignore[attr-defined]

    class CheckedCallbacks(Callbacks):
        """The first callback, followed by the callbacks of a config that are not null."""

        def __init__(self, config: Any = None) -> None:
            super().__init__(config)
            self.callbacks = [first_callback, *(callback for callback in self.callbacks if callback is not None)]

    def checked_save(cfg: DictConfig, filename: str, output_dir: Path) -> None:
        before_write(output_dir, filename)
        save_config(cfg, filename, output_dir)

    utils.run_and_report = lambda func: func()
    hydra.Callbacks = CheckedCallbacks  # type: ignore[attr-defined]
    jobs._save_config = checked_save
    try:
        yield
    finally:
        utils.run_and_report = report
        hydra.Callbacks = callbacks  # type: ignore[attr-defined]
        jobs._save_config = save_config


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Parse a command line as Hydra does, into flags and overrides, except that flags may be between overrides.

    Returns:
        The values of all flags, `overrides`, and `ordered`: the arguments with all flags before the overrides.

    Raises:
        UserError: A flag is unknown or has an invalid value.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> Any:
        raise UserError(message)

    parser.error = refuse  # type: ignore[method-assign]
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    check_config_dir(parsed.config_dir)
    if parsed.resolve and not parsed.cfg:
        refuse("--resolve: requires --cfg")
    if parsed.package and not parsed.cfg:
        refuse("--package: requires --cfg")
    modes = (parsed.run, parsed.multirun, parsed.cfg, parsed.info, parsed.shell_completion)
    if sum(map(bool, modes)) > 1:
        refuse("--run, --multirun, --cfg, --info and --shell-completion exclude each other; use only one of them")
    if not unknown:
        ordered = list(arguments)
        for override in parsed.overrides:
            ordered.remove(override)
        parsed.ordered = [*ordered, *parsed.overrides]
        return parsed
    messages = []
    for argument in unknown:
        flag, _, value = argument.partition("=")
        name = flag.strip("-").replace("-", "_")
        if keys := usual_keys(name) or [key for key in OTHER_NAMES if key.rpartition(".")[2] == name]:
            hint = f"settings have no dashes: {keys[0]}={value or '...'}"
        elif near := get_close_matches(flag, flags, n=1):
            hint = f"did you mean {near[0]}?"
        else:
            hint = f"{program_name()} --hydra-help lists all flags"
        messages.append(f"{argument}: no such flag; {hint}")
    raise UserError("\n".join(messages))


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
STORED_OPTION = re.compile(r'\.store\(\s*group="([\w/]+)",\s*name="(\w+)"')


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
            yield from STORED_OPTION.findall(path.read_text(encoding="utf-8"))
    yield from ((group, "basic") for group in HYDRA_GROUPS)  # included in Hydra
