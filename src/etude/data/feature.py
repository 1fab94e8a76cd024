"""Selection of the bins and the time unit of the frames that a network receives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.errors import UserError

VIEWS = ("mel", "chroma", "fused")


@dataclass(frozen=True)
class Feature:
    """Selection of bins from the frames of a front end.

    Args:
        view: `mel`, `chroma`, or `fused` (mel bands, then pitch classes).
        sync: `none`, or `beat` for one frame a beat; the value is passed to the front end.
        front: Front end that computes the frames. All views of a front end share one pack on disk.
    """

    view: str = "mel"
    sync: str = "none"
    front: FrontEnd = field(default_factory=LogMelChroma)

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UserError(f"feature.view must be one of {', '.join(VIEWS)}, got {self.view!r}")
        if not isinstance(self.front, FrontEnd):  # the config accepts any value of a group that is set as a key
            raise UserError(f"feature.front={self.front}: is not a front end; select one with feature/front=<name>")
        if self.view != "mel" and not self.front.n_chroma:
            raise UserError(f"feature.view={self.view}: this front end computes no chroma; use feature.view=mel")
        object.__setattr__(self, "front", replace(self.front, sync=self.sync))

    @property
    def columns(self) -> slice:
        """Bins of a frame (140,) that belong to the view."""
        mels = self.front.n_mels
        return {"mel": slice(0, mels), "chroma": slice(mels, self.front.bins), "fused": slice(0, self.front.bins)}[
            self.view
        ]

    @property
    def bins(self) -> int:
        """Width of the view, F."""
        return self.columns.stop - self.columns.start
