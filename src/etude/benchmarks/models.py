"""A training step of each backbone against the network that one would otherwise take, in one thread.

- The convolutional network against the usual order of convolution, batch norm, ReLU and pooling.
- The LSTM on padded clips against torch's on packed ones, which oneDNN does not take.
- The transformer: see `transformer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from etude.audio.masks import valid
from etude.backbones.cnn import CNN
from etude.backbones.lstm import LSTM
from etude.benchmarks import transformer
from etude.benchmarks.timing import Bar, Section
from etude.benchmarks.training import CLASSES, Classifier, clips, compare, steps

BINS = 128
FRAMES, CHANNELS, BATCH, ROUNDS = 1293, (32, 64, 128, 256), 4, 3
PLAIN, OURS, FLAT = "plain: NCHW, ReLU before pooling", "ours: channels last, pooling before ReLU", "plain, flattened"
SHORTEST = 4  # the shortest clip is this part of the longest
PACKED, PADDED, BUCKETS = "torch, packed", "ours, padded", "ours, padded, batches of like length"


def run() -> list[Section]:
    """Time the transformer, the LSTM and the convolutional network."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return [transformer.section(), *map(lstm_section, CASES), cnn_section()]


class PlainCNN(nn.Module):
    """The same convolutional network in torch's own modules, in their usual order and layout.

    Args:
        twin: Whose weights it takes.
        flat: Whether all that is left goes into a linear layer as wide as the embedding, in place of a mean over time
            and frequency; it then takes clips of one length alone.
    """

    def __init__(self, twin: Classifier, flat: bool = False) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for block in twin.backbone.blocks:  # type: ignore[union-attr]
            norm = nn.BatchNorm2d(len(block.norm.weight))  # type: ignore[union-attr]
            norm.load_state_dict(block.norm.state_dict())  # type: ignore[union-attr]
            parts += [deepcopy(block.conv), norm, nn.ReLU(), deepcopy(block.pool)]  # type: ignore[union-attr]
        self.blocks, self.halvings = nn.Sequential(*parts), len(parts) // 4
        left = twin.backbone.dim * (FRAMES >> self.halvings) * (BINS >> self.halvings)
        self.flat = nn.Sequential(nn.Flatten(), nn.Linear(left, twin.backbone.dim)) if flat else None
        self.head = nn.Linear(twin.backbone.dim, CLASSES)
        self.head.load_state_dict(twin.head.state_dict())
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, F) and valid frames (B,) to scores (B, K)."""
        x = self.blocks(x[:, None])
        if self.flat is not None:
            return self.head(self.flat(x))
        lengths = lengths >> self.halvings
        mask = valid(lengths, x.shape[2])[:, None, :, None]
        return self.head((x * mask).mean(3).sum(2) / lengths[:, None])


def cnn_section() -> Section:
    """Time a training step of the convolutional network on whole clips of one length."""
    ours = Classifier(CNN(BINS, CHANNELS, dropout=0.0))
    for block in ours.backbone.blocks:  # type: ignore[union-attr]
        nn.init.uniform_(block.norm.weight, 0.5, 1.5)  # type: ignore[union-attr]
        nn.init.uniform_(block.norm.bias, -0.5, 0.5)  # type: ignore[union-attr]
    plain, flat = PlainCNN(ours), PlainCNN(ours, flat=True)
    batch = clips([FRAMES] * BATCH, BINS)
    with torch.no_grad():
        apart = float((ours.eval()(*batch[:2]) - plain.eval()(*batch[:2])).abs().max())
    contenders: dict[str, Callable[[], object]] = {
        PLAIN: steps(plain, [batch]),
        OURS: steps(ours, [batch]),
        FLAT: steps(flat, [batch]),
    }
    widths = "-".join(map(str, CHANNELS))
    title = f"CNN {widths}, {BINS} x {FRAMES}, a training step of {BATCH} clips; one thread"
    made, times = compare(title, contenders, ROUNDS, clips_of=BATCH)
    made.bars = [
        Bar("ours against plain", times.ratio(PLAIN, OURS), 1.25),
        Bar("largest difference of a score from plain", apart, 1e-5, False, ""),
    ]
    return made


class LSTMCase(NamedTuple):
    """What is timed, how often, and how many times faster than packed ours has to be; none has no bar."""

    layers: int
    hidden: int
    frames: int
    batch: int
    batches: int
    rounds: int
    bar: float | None


CASES = (
    LSTMCase(2, 64, 129, 32, 4, 9, 3),
    LSTMCase(2, 64, 1293, 8, 1, 3, 8),
    LSTMCase(8, 256, 129, 32, 1, 1, None),
)


class PackedLSTM(nn.Module):
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


def lstm_section(case: LSTMCase) -> Section:
    """Time a training step of the LSTM on clips of many lengths."""
    ours = Classifier(LSTM(BINS, case.hidden, case.layers, dropout=0.0, readout="last", packed=False))
    theirs = PackedLSTM(ours)
    count = case.batch * case.batches
    lengths = torch.linspace(max(1, case.frames // SHORTEST), case.frames, count).long()
    mixed = [clips(part, BINS) for part in lengths[torch.randperm(count)].split(case.batch)]
    alike = [clips(part, BINS) for part in lengths.split(case.batch)]
    apart, padding = _differences(ours, theirs, mixed[0][0], mixed[0][1])
    contenders: dict[str, Callable[[], object]] = {PACKED: steps(theirs, mixed), PADDED: steps(ours, mixed)}
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
        made.bars.insert(0, Bar("packed against ours", times.ratio(PACKED, PADDED), case.bar))
    return made


@torch.no_grad()
def _differences(ours: nn.Module, theirs: nn.Module, x: Tensor, lengths: Tensor) -> tuple[float, float]:
    """Largest differences of scores: from those of packed clips, and from those of clips whose padding is another."""
    scores, other = ours(x, lengths), 1e3 * torch.randn_like(x)
    for clip, new, length in zip(x, other, lengths, strict=True):
        new[:length] = clip[:length]
    return tuple(float((scores - again).abs().max()) for again in (theirs(x, lengths), ours(other, lengths)))  # type: ignore[return-value]
