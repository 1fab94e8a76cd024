"""The LSTM on padded clips against torch's on packed ones, which oneDNN does not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from etude.backbones.lstm import LSTM
from etude.benchmarks.timing import Bar, Section
from etude.benchmarks.training import CLASSES, Classifier, clips, compare, steps

BINS, SHORTEST = 128, 4  # the shortest clip is this part of the longest
PACKED, DENSE, BUCKETS = "torch, packed", "ours, padded", "ours, padded, batches of like length"


class Case(NamedTuple):
    """What is timed, how often, and how many times faster than packed ours has to be; none has no bar."""

    layers: int
    hidden: int
    frames: int
    batch: int
    batches: int
    rounds: int
    bar: float | None


CASES = (
    Case(2, 64, 129, 32, 4, 9, 3),
    Case(2, 64, 1293, 8, 1, 3, 8),
    Case(8, 256, 129, 32, 1, 1, None),
)


class Packed(nn.Module):
    """torch's LSTM over packed clips, read out at the last state of its last layer.

    Args:
        twin: Whose size and weights it takes.
    """

    def __init__(self, twin: Classifier) -> None:
        super().__init__()
        layers = list(twin.backbone.onward)  # type: ignore[arg-type]
        hidden = twin.backbone.dim
        self.lstm = nn.LSTM(BINS, hidden, len(layers), batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)
        self.head.load_state_dict(twin.head.state_dict())
        for place, layer in enumerate(layers):
            for name, weight in layer.state_dict().items():
                self.lstm.get_parameter(name.replace("_l0", f"_l{place}")).data.copy_(weight)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, F) and valid frames (B,) to scores (B, K)."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


def sections() -> list[Section]:
    """Time every case."""
    return [_section(case) for case in CASES]


def _section(case: Case) -> Section:
    ours = Classifier(LSTM(BINS, case.hidden, case.layers, dropout=0.0, readout="last", packed=False))
    theirs = Packed(ours)
    count = case.batch * case.batches
    lengths = torch.linspace(max(1, case.frames // SHORTEST), case.frames, count).long()
    mixed = [clips(part, BINS) for part in lengths[torch.randperm(count)].split(case.batch)]
    alike = [clips(part, BINS) for part in lengths.split(case.batch)]
    apart, padding = _exact(ours, theirs, mixed[0][0], mixed[0][1])
    contenders: dict[str, Callable[[], object]] = {PACKED: steps(theirs, mixed), DENSE: steps(ours, mixed)}
    if case.batches > 1:
        contenders[BUCKETS] = steps(ours, alike)
    title = (
        f"LSTM {case.layers} x {case.hidden}, a training step of {case.batch} clips of "
        f"{lengths[0]} to {case.frames} frames of {BINS}; one thread"
    )
    made, times = compare(title, contenders, case.rounds, case.batches)
    made.bars = [
        Bar("largest difference of a score from packed", apart, 1e-5, False, ""),
        Bar("largest difference that the padding makes", padding, 0, False, ""),
    ]
    if case.bar is None:
        made.notes = [f"timed in {case.rounds} round, because packed takes seconds; it has no bar"]
    else:
        made.bars.insert(0, Bar("packed against ours", times.ratio(PACKED, DENSE), case.bar))
    return made


@torch.no_grad()
def _exact(ours: nn.Module, theirs: nn.Module, x: Tensor, lengths: Tensor) -> tuple[float, float]:
    """Largest differences of scores: from those of packed clips, and from those of clips whose padding is another."""
    scores, other = ours(x, lengths), 1e3 * torch.randn_like(x)
    for clip, new, length in zip(x, other, lengths, strict=True):
        new[:length] = clip[:length]
    return tuple(float((scores - again).abs().max()) for again in (theirs(x, lengths), ours(other, lengths)))  # type: ignore[return-value]
