"""Where a sweep lives, and what can be wrong with what is said of that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from etude import disk
from etude.errors import UserError
from etude.files import ownership
from etude.launch import dated
from etude.sweeps.ledger import NAME
from etude.sweeps.outcome import OUTCOME, forget


def prepare(words: Sequence[str], multirun: bool) -> None:
    """What has to be in place before the words of a command are composed.

    Args:
        words: Overrides.
        multirun: Whether they make a sweep.

    Raises:
        UserError: A sweep is meant and -m was not said, or what is to be gone on with is no sweep.
    """
    from omegaconf import OmegaConf

    many = multirun or "hydra.mode=MULTIRUN" in words
    place = any(word.startswith("hydra.sweep.dir=") for word in words)
    for word in words if many or not place else ():  # a job of a sweep is told its place, and what its sweep was told
        if word.startswith("sweep=") and word != "sweep=null" and not many:
            raise UserError(f"{word}: is a sweep; add -m")
        if word.startswith("sweep.resume=") and word != "sweep.resume=null":
            if not many:
                raise UserError(f"{word}: goes on with a sweep; say its command again, with -m")
            folder = Path(word[13:].strip("'"))
            if not any((folder / name).is_file() for name in (NAME, "multirun.yaml")):
                raise UserError(f"{word}: is not the folder of a sweep, it has no {NAME}")
    forget()
    sweep_folder.cache_clear()
    OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)


@lru_cache  # one sweep has one folder
def sweep_folder(resume: str | None, outputs: str) -> str:
    """The folder that is gone on with, or a new one that no other sweep can have."""
    if resume:
        return str(resume)
    for folder in dated(outputs, "sweep"):
        try:
            ownership.create_folder(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise disk.explain(error, outputs, disk.OTHER_RUN, f"outputs={outputs}") or error from error
        OUTCOME.folder = folder
        break
    return str(OUTCOME.folder)
