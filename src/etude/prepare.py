"""The command that makes a pack without training on it: `etude prepare data=demo`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.build import conf_dir
from etude.errors import UserError

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pack of a configured collection; `data=` and `feature=` as in training.

    Args:
        argv: Hydra overrides.

    Returns:
        0, or 2 when the config or the data have to be mended.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from etude.build import make
    from etude.data.prepare import prepare

    overrides = list(sys.argv[1:] if argv is None else argv)
    if "-h" in overrides or "--help" in overrides:
        options = ", ".join(sorted(path.stem for path in (conf_dir() / "data").glob("*.yaml")))
        print(f"prepare: make the pack of a collection.\n\n  data=<{options}> feature=<view> data.packs=<folder>")  # noqa: T201
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", overrides=overrides)
        source: Any = OmegaConf.to_container(config.data.source, resolve=True)
        feature: Any = OmegaConf.to_container(config.feature, resolve=True)
        pack = prepare(make(source), make(feature).front, Path(config.data.packs))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    log.info("%d clips in %s", len(pack.index), pack.folder)
    return 0
