"""Which front ends can be part of a graph, and as what."""

from __future__ import annotations

from functools import singledispatch

from etude.audio.front import Front
from etude.audio.kaldi import ASTFront, EfficientATFront
from etude.audio.spectral import FrontEnd
from etude.errors import UserError
from etude.export.kaldi import AST, EfficientAT
from etude.export.spectral import Ears, Spectral


@singledispatch
def ears(front: Front, columns: tuple[int, int]) -> Ears:
    """A front end as part of a graph.

    Args:
        front: The front end.
        columns: First and last column of the network's view.

    Raises:
        UserError: It does what no graph can: it estimates something of the clip, or is not one of those known here.
    """
    raise refusal(f"the front end {type(front).__name__}")


@ears.register
def _(front: FrontEnd, columns: tuple[int, int]) -> Ears:
    if columns[1] > front.n_mels:  # pitch classes are in the view
        if front.chroma == "cqt":
            raise refusal("constant-Q chroma (feature.front.chroma=cqt)")
        if front.tuning is None:
            raise refusal("a tuning that is estimated for each clip (feature.front.tuning=null)")
    return Spectral(front, columns)


@ears.register
def _(front: ASTFront, columns: tuple[int, int]) -> Ears:
    return AST(front, columns)


@ears.register
def _(front: EfficientATFront, columns: tuple[int, int]) -> Ears:
    return EfficientAT(front, columns)


def of(front: Front, columns: tuple[int, int]) -> Ears:
    """As `ears`, but of front ends that are known here themselves: one that derives from them may do anything else."""
    if front.sync != "none":
        raise refusal("frames by the beat (feature.sync=beat)")
    if type(front) not in ears.registry:
        raise refusal(f"the front end {type(front).__name__}")
    return ears(front, columns)


def refusal(what: str) -> UserError:
    """What to raise when something cannot be part of a graph."""
    return UserError(
        f"{what} cannot be part of a graph that takes a waveform; export the network behind it: input=frames"
    )
