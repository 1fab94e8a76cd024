"""Composition of configs by Hydra: the only use of its private API."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.validation import problems
from etude.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from omegaconf import DictConfig


def conf_dir() -> Path:
    """The folder of configs: inside the installed package, or beside src/ in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


@contextmanager
def open_hydra(folder: str | Path | None = None) -> Iterator[Hydra]:
    """Hydra on conf/, which composes configs; whatever was open before is open again afterwards.

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
        yield Hydra.create_main_hydra2("train", path)
    finally:
        Singleton._instances.pop(GlobalHydra, None)
        if before is not None:
            Singleton._instances[GlobalHydra] = before


@contextmanager
def raising_hydra() -> Iterator[None]:
    """Let hydra.main raise what it would print, and check each folder that Hydra writes into, whatever the config says.

    `HYDRA_FULL_ERROR=1` raises as well, but the processes that a run starts would inherit it.
    """
    from hydra._internal import hydra, utils
    from hydra.core import utils as jobs

    from etude.experiment.output_check import CheckedCallbacks, check_third_party

    kept, callbacks, original = utils.run_and_report, hydra.Callbacks, jobs._save_config  # type: ignore[attr-defined]

    def checked_save(cfg: Any, filename: str, output_dir: Path) -> None:
        check_third_party(output_dir, (filename,))
        original(cfg, filename, output_dir)

    utils.run_and_report = lambda func: func()
    hydra.Callbacks = CheckedCallbacks  # type: ignore[attr-defined]
    jobs._save_config = checked_save
    try:
        yield
    finally:
        utils.run_and_report = kept
        hydra.Callbacks = callbacks  # type: ignore[attr-defined]
        jobs._save_config = original


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The words of a command as Hydra takes them apart: flags and overrides.

    Raises:
        UserError: A flag that there is not, or a word between two flags.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]

    def refuse(message: str) -> Any:
        raise UserError(message)

    parser.error = refuse  # type: ignore[method-assign]
    found, strange = parser.parse_known_args(list(words))
    if found.config_dir is not None and not Path(found.config_dir).is_dir():
        refuse(f"--config-dir={found.config_dir}: there is no such folder")
    if found.resolve and not found.cfg:
        refuse("--resolve: goes with --cfg")
    modes = (found.run, found.multirun, found.cfg, found.info, found.shell_completion)
    if sum(map(bool, modes)) > 1:
        refuse("of --run, --multirun, --cfg, --info and --shell-completion only one is possible")
    if not strange:
        return found
    said = []
    for word in strange:
        if word.startswith("-"):
            near = get_close_matches(word.partition("=")[0], flags, n=1)
            hint = f"did you mean {near[0]}?" if near else "python train.py --hydra-help lists them"
            said.append(f"{word}: no such flag; {hint}")
        else:
            said.append(f"{word}: stands behind a flag that has words before it; put the flags first")
    raise UserError("\n".join(said))


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
