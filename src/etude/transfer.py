"""Starting from weights that were learned elsewhere, and saying exactly what was taken."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etude.errors import UserError

if TYPE_CHECKING:
    from etude.learner import Learner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transfer:
    """Copies the backbone of an earlier run into a new network; everything stays trainable.

    Args:
        init_from: A run folder, or a checkpoint.
    """

    init_from: str

    def apply(self, learner: Learner) -> None:
        """Copy every tensor of the backbone whose name and shape agree.

        Raises:
            UserError: There is no checkpoint there, or not one tensor agrees.
        """
        from etude.checkpoint import read

        path = Path(self.init_from)
        path = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"transfer.init_from: {path} does not exist")
        theirs = read(path)["state_dict"]
        theirs = {k.removeprefix("backbone."): v for k, v in theirs.items() if k.startswith("backbone.")}
        ours = learner.backbone.state_dict()
        same = {k: v for k, v in theirs.items() if k in ours and ours[k].shape == v.shape}
        if not same:
            raise UserError(
                f"transfer.init_from: no tensor of {path} fits the backbone; is it of another kind or size?"
            )
        learner.backbone.load_state_dict(same, strict=False)
        log.info("transfer: %d of %d backbone tensors copied from %s", len(same), len(ours), path)
        left = {
            "not in the source": set(ours) - set(theirs),
            "of another shape": set(theirs) & set(ours) - set(same),
            "not in this network": set(theirs) - set(ours),
        }
        for title, keys in left.items():
            if keys:
                log.warning("transfer: %d tensors are %s: %s", len(keys), title, ", ".join(sorted(keys)[:8]))
