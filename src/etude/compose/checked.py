"""A composed config to plain values, or a sentence for all that is wrong with it; nothing heavy is imported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.schema import problems

if TYPE_CHECKING:
    from omegaconf import DictConfig


def checked(composed: DictConfig) -> dict[str, Any]:
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
