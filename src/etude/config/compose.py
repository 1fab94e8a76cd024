"""Composition of configs by Hydra. No other folder uses Hydra's private interface."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.validation import problems
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.experimental.callback import Callback
    from omegaconf import DictConfig


def conf_dir() -> Path:
    """The folder of configs: inside the installed package, or beside src/ in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


class Composer:
    """Hydra on conf/ and the folders of the search path.

    Args:
        hydra: As `open_hydra` creates it.
    """

    def __init__(self, hydra: Hydra) -> None:
        self._hydra = hydra

    @property
    def loader(self) -> Any:
        """Hydra's config loader."""
        return self._hydra.config_loader

    def compose(self, overrides: Sequence[str], name: str = "train") -> DictConfig:
        """Return the composed config with Hydra's own node.

        Args:
            overrides: Overrides of the command line.
            name: The config that they change.

        Raises:
            Exception: Hydra cannot compose it; `override_errors` explains why.
        """
        from hydra.types import RunMode

        return self._hydra.compose_config(name, list(overrides), RunMode.RUN)

    def run(self, task: Callable[[Any], Any], overrides: Sequence[str]) -> None:
        """Compose a config and run a task with it in the folder that the config names.

        Args:
            task: Takes the composed config.
            overrides: Overrides of the command line.
        """
        self._hydra.run("train", task, list(overrides), with_log_configuration=False)


@contextmanager
def open_hydra(folder: str | Path | None = None) -> Iterator[Composer]:
    """Open Hydra on conf/; whatever was open before is open again afterwards.

    Args:
        folder: A folder of further options, which come before ours, as by `--config-dir`.

    Raises:
        UserError: There is no such folder.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    if folder is not None and not Path(folder).is_dir():
        raise UserError(f"--config-dir={folder}: there is no such folder")
    before = Singleton._instances.pop(GlobalHydra, None)
    version.setbase("1.3")
    try:
        path = create_config_search_path(str(conf_dir()))
        if folder is not None:
            path.prepend("command-line", f"file://{Path(folder).absolute()}", SearchPathQuery(provider="schema"))
        yield Composer(Hydra.create_main_hydra2("train", path))
    finally:
        Singleton._instances.pop(GlobalHydra, None)
        if before is not None:
            Singleton._instances[GlobalHydra] = before


@contextmanager
def current_config(config: DictConfig) -> Iterator[None]:
    """Make a composed config the one that `${hydra:...}` refers to until the block ends."""
    from hydra.core.hydra_config import HydraConfig

    current = HydraConfig.instance()
    before = current.cfg
    current.set_config(config)
    try:
        yield
    finally:
        current.cfg = before


def run_hydra(task: Callable[[Any], Any], first_callback: Callback, before_write: Callable[[Path, str], None]) -> None:
    """Run a task by `hydra.main` on the command line of this process.

    Errors are raised, where Hydra would print them and exit. `HYDRA_FULL_ERROR=1` raises them as well, but the
    processes that a run starts would inherit it.

    Args:
        task: Takes the composed config.
        first_callback: Callback that precedes those of the config; no config can leave it out.
        before_write: Called with folder and name of each file before Hydra writes it.
    """
    import hydra

    with _patched_hydra(first_callback, before_write):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(task)()


@contextmanager
def _patched_hydra(first_callback: Callback, before_write: Callable[[Path, str], None]) -> Iterator[None]:
    """Replace the functions of Hydra that report errors, create callbacks and write files, until the block ends."""
    from hydra._internal import hydra, utils
    from hydra._internal.callbacks import Callbacks
    from hydra.core import utils as jobs

    report, callbacks, save_config = utils.run_and_report, hydra.Callbacks, jobs._save_config  # type: ignore[attr-defined]

    class CheckedCallbacks(Callbacks):
        """Callbacks of a config, without those that are null, after the first one."""

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


def parse_arguments(words: Sequence[str]) -> Namespace:
    """Parse a command line as Hydra does, into flags and overrides.

    Raises:
        UserError: An unknown flag, or an override between two flags.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> Any:
        raise UserError(message)

    parser.error = refuse  # type: ignore[method-assign]
    arguments, unknown = parser.parse_known_args(list(words))
    if arguments.config_dir is not None and not Path(arguments.config_dir).is_dir():
        refuse(f"--config-dir={arguments.config_dir}: there is no such folder")
    if arguments.resolve and not arguments.cfg:
        refuse("--resolve: goes with --cfg")
    modes = (arguments.run, arguments.multirun, arguments.cfg, arguments.info, arguments.shell_completion)
    if sum(map(bool, modes)) > 1:
        refuse("of --run, --multirun, --cfg, --info and --shell-completion only one is possible")
    if not unknown:
        return arguments
    messages = []
    for word in unknown:
        if word.startswith("-"):
            near = get_close_matches(word.partition("=")[0], flags, n=1)
            hint = f"did you mean {near[0]}?" if near else "python train.py --hydra-help lists them"
            messages.append(f"{word}: no such flag; {hint}")
        else:
            messages.append(f"{word}: stands behind a flag that has words before it; put the flags first")
    raise UserError("\n".join(messages))


def plain_config(composed: DictConfig) -> dict[str, Any]:
    """The config of a run, resolved.

    Args:
        composed: By Hydra, without its own part.

    Raises:
        UserError: Values are missing, cannot be resolved, or are not what the code that they are for takes.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        missing = OmegaConf.missing_keys(composed)
        config: Any = {} if missing else OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])
        raise UserError(f"{error.full_key or 'the config'}: {reason}") from error
    if missing := missing or OmegaConf.missing_keys(OmegaConf.create(config)):  # also what a sweep would have filled in
        raise UserError("\n".join(f"{key}: needs a value; add {key}=... to the command" for key in sorted(missing)))
    for key in ("sweep", "resume"):  # where a run is, and no setting of it
        config.pop(key, None)
    if faults := problems(config):
        heading = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise UserError("\n  ".join([f"the config has {heading}:", *faults]))
    return config
