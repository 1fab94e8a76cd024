"""Benchmarks of training steps in one thread: backbones against usual implementations, a run against a minimal loop.

- The convolutional network is compared with the usual order of convolution, batch norm, ReLU and pooling.
- Musicnn on padded clips of different lengths is compared with torch's modules on their patches without padding.
- The LSTM on padded clips is compared with torch's LSTM on packed clips. oneDNN does not support packed clips.
- For the transformer see `transformer`.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from etude.audio.frontend_modules import valid
from etude.backbones.cnn import CNN
from etude.backbones.lstm import LSTM
from etude.backbones.musicnn import CHUNK, PATCH, Musicnn
from etude.benchmarks import transformer
from etude.benchmarks.timing import (
    CLASSES,
    Classifier,
    Requirement,
    Section,
    Timing,
    compare_training,
    random_batch,
    training_steps,
)
from etude.config.compose import conf_dir
from etude.data import datamodule
from etude.training.build import LightningData, build_learner, build_trainer
from etude.training.lightning import Callback

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.training.learner import Learner

BINS = 128
FRAMES, CHANNELS, BATCH, ROUNDS = 1293, (32, 64, 128, 256), 4, 3
PLAIN, ETUDE, FLAT = "plain: NCHW, ReLU before pooling", "etude: channels last, pooling before ReLU", "plain, flattened"
LENGTH_RATIO = 4  # longest clip relative to the shortest
LOOP_ROUNDS = 7
RUN, MINIMAL = "Lightning, as in a run", "minimal loop"
MUSICNN_BINS, MUSICNN_LENGTHS = 96, (750, 200, 561, 187, 374)  # bins, and frames of clips
PATCHES, MASKED = "plain, patches", "etude, padded clips"
PACKED, PADDED, BUCKETS = "torch, packed", "etude, padded", "etude, padded, batches of similar length"


def benchmark_models() -> list[Section]:
    """Measure the training steps of three kinds of networks, and the embedding by musicnn."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return [transformer.time_transformer(), *map(time_lstm, CASES), time_cnn(), time_musicnn()]


class PlainCNN(nn.Module):
    """Convolutional network of torch's modules in their usual order and layout.

    Args:
        classifier: Classifier whose weights are copied.
        flat: Whether the feature maps are flattened and passed to a linear layer with the width of the embedding. All
            clips must then have the same length. Otherwise the feature maps are averaged over time and frequency.
    """

    def __init__(self, classifier: Classifier, flat: bool = False) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for block in classifier.backbone.blocks:  # type: ignore[union-attr]
            norm = nn.BatchNorm2d(len(block.norm.weight))  # type: ignore[union-attr]
            norm.load_state_dict(block.norm.state_dict())  # type: ignore[union-attr]
            modules += [deepcopy(block.conv), norm, nn.ReLU(), deepcopy(block.pool)]  # type: ignore[union-attr]
        self.blocks, self.halvings = nn.Sequential(*modules), len(modules) // 4
        dim = classifier.backbone.dim
        features = dim * (FRAMES >> self.halvings) * (BINS >> self.halvings)
        self.flat = nn.Sequential(nn.Flatten(), nn.Linear(features, dim)) if flat else None
        self.head = nn.Linear(dim, CLASSES)
        self.head.load_state_dict(classifier.head.state_dict())
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return scores (B, K) of frames (B, T, F) and valid frames (B,)."""
        x = self.blocks(x[:, None])
        if self.flat is not None:
            return self.head(self.flat(x))
        lengths = lengths >> self.halvings
        mask = valid(lengths, x.shape[2])[:, None, :, None]
        return self.head((x * mask).mean(3).sum(2) / lengths[:, None])


def time_cnn() -> Section:
    """Measure a training step of the convolutional network on complete clips of one length."""
    classifier = Classifier(CNN(BINS, CHANNELS, dropout=0.0))
    for block in classifier.backbone.blocks:  # type: ignore[union-attr]
        nn.init.uniform_(block.norm.weight, 0.5, 1.5)  # type: ignore[union-attr]
        nn.init.uniform_(block.norm.bias, -0.5, 0.5)  # type: ignore[union-attr]
    plain, flat = PlainCNN(classifier), PlainCNN(classifier, flat=True)
    batch = random_batch([FRAMES] * BATCH, BINS)
    with torch.no_grad():
        difference = float((classifier.eval()(*batch[:2]) - plain.eval()(*batch[:2])).abs().max())
    functions: dict[str, Callable[[], object]] = {
        PLAIN: training_steps(plain, [batch]),
        ETUDE: training_steps(classifier, [batch]),
        FLAT: training_steps(flat, [batch]),
    }
    widths = "-".join(map(str, CHANNELS))
    title = f"CNN {widths}, {BINS} x {FRAMES}, training step of {BATCH} clips; one thread"
    section, times = compare_training(title, functions, ROUNDS, clips_per_batch=BATCH)
    section.requirements = [
        Requirement("speed: etude / plain", times.ratio(PLAIN, ETUDE), 1.25),
        Requirement("largest difference of a score from plain", difference, 1e-5, False, ""),
    ]
    return section


class PlainMusicnn(nn.Module):
    """Musicnn of torch's modules, for patches without padding.

    Args:
        net: Network whose weights are copied.
    """

    def __init__(self, net: Musicnn) -> None:
        super().__init__()
        self.net = deepcopy(net)

        def plain(norm: nn.Module) -> nn.BatchNorm2d:
            copy = nn.BatchNorm2d(len(norm.weight), eps=norm.eps)  # type: ignore[arg-type]
            copy.load_state_dict(norm.state_dict())
            return copy

        self.norm, self.convolutions = plain(net.front.norm), nn.ModuleList()
        for layer in (*net.front.branches, *net.middle):
            self.convolutions.append(nn.Sequential(deepcopy(layer.conv), nn.ReLU(True), plain(layer.norm)))  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """Return embeddings (N, 200) of patches (N, 187, F)."""
        x, (*layers, first, second, third) = self.norm(patches[:, None]), self.convolutions
        padded = [F.pad(x, branch.padding) for branch in self.net.front.branches]  # type: ignore[arg-type]
        front = torch.cat([layer(image).amax(3, keepdim=True) for layer, image in zip(layers, padded, strict=True)], 1)
        a = first(front)
        b = second(a) + a
        x = torch.cat([front, a, b, third(b) + b], 1)[..., 0]
        pooled = torch.stack([x.amax(2), x.mean(2)], 2).flatten(1)
        return self.net.back(pooled, torch.ones(len(pooled), dtype=torch.int64))  # type: ignore[misc]


def time_musicnn() -> Section:
    """Measure the embedding of padded clips by musicnn, and of as many patches by torch's modules."""
    net = Musicnn(MUSICNN_BINS, "msd")
    net.initialise()
    x, lengths, _ = random_batch(MUSICNN_LENGTHS, MUSICNN_BINS)
    counts = [n // PATCH for n in MUSICNN_LENGTHS]
    patches = torch.cat([clip[: n * PATCH].unflatten(0, (n, PATCH)) for clip, n in zip(x, counts, strict=True)])
    masked, plain = net.eval(), PlainMusicnn(net).eval()

    @torch.no_grad()
    def embed_patches() -> Tensor:
        return torch.cat([plain(chunk) for chunk in patches.split(CHUNK)])  # all at once takes twice as long

    @torch.no_grad()
    def embed_clips() -> Tensor:
        return masked(x, lengths)

    expected = torch.stack([clip.mean(0) for clip in embed_patches().split(counts)])
    difference = float((embed_clips() - expected).abs().max())
    sizes = f"{min(MUSICNN_LENGTHS)} to {max(MUSICNN_LENGTHS)} frames of {MUSICNN_BINS}"
    title = f"musicnn, embedding of {len(x)} clips of {sizes}; one thread"
    section, times = compare_training(title, {PATCHES: embed_patches, MASKED: embed_clips}, ROUNDS)
    section.requirements = [
        Requirement("duration: etude / plain", times.ratio(MASKED, PATCHES), 1.1, False),
        Requirement("largest difference of an embedding from plain", difference, 1e-4, False, ""),
    ]
    return section


class LSTMCase(NamedTuple):
    """Size and number of rounds of a case, and the required speed relative to packed clips (None for no bar)."""

    layers: int
    hidden: int
    frames: int
    batch: int
    batches: int
    rounds: int
    required_ratio: float | None


CASES = (
    LSTMCase(2, 64, 129, 32, 4, 9, 3),
    LSTMCase(2, 64, 1293, 8, 1, 3, 8),
    LSTMCase(8, 256, 129, 32, 1, 1, None),
)


class PackedLSTM(nn.Module):
    """LSTM of torch on packed clips. The embedding is the last state of the last layer.

    Args:
        classifier: Classifier whose size and weights are copied.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        layers = list(classifier.backbone.forward_layers)  # type: ignore[arg-type]
        hidden = classifier.backbone.dim
        self.lstm = nn.LSTM(BINS, hidden, len(layers), batch_first=True)
        self.head = nn.Linear(hidden, CLASSES)
        self.head.load_state_dict(classifier.head.state_dict())
        for i, layer in enumerate(layers):
            for name, weight in layer.state_dict().items():
                self.lstm.get_parameter(name.replace("_l0", f"_l{i}")).data.copy_(weight)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return scores (B, K) of frames (B, T, F) and valid frames (B,)."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(packed)[1][0][-1])


def time_lstm(case: LSTMCase) -> Section:
    """Measure a training step of the LSTM on clips of different lengths."""
    classifier = Classifier(LSTM(BINS, case.hidden, case.layers, dropout=0.0, readout="last", packed=False))
    reference = PackedLSTM(classifier)
    count = case.batch * case.batches
    lengths = torch.linspace(max(1, case.frames // LENGTH_RATIO), case.frames, count).long()
    mixed = [random_batch(chunk, BINS) for chunk in lengths[torch.randperm(count)].split(case.batch)]
    buckets = [random_batch(chunk, BINS) for chunk in lengths.split(case.batch)]
    difference, padding = _differences(classifier, reference, mixed[0][0], mixed[0][1])
    functions: dict[str, Callable[[], object]] = {
        PACKED: training_steps(reference, mixed),
        PADDED: training_steps(classifier, mixed),
    }
    if case.batches > 1:
        functions[BUCKETS] = training_steps(classifier, buckets)
    title = (
        f"LSTM {case.layers} x {case.hidden}, training step of {case.batch} clips of "
        f"{lengths[0]} to {case.frames} frames of {BINS}; one thread"
    )
    section, times = compare_training(title, functions, case.rounds, case.batches)
    section.requirements = [
        Requirement("largest difference of a score from packed", difference, 1e-5, False, ""),
        Requirement("largest difference due to the padding", padding, 0, False, ""),
    ]
    if case.required_ratio is None:
        section.notes = [
            f"measured in {case.rounds} round and without a required ratio, because packed steps take seconds"
        ]
    else:
        ratio = times.ratio(PACKED, PADDED)
        section.requirements.insert(0, Requirement("speed: etude / packed", ratio, case.required_ratio))
    return section


@torch.no_grad()
def _differences(net: nn.Module, reference: nn.Module, x: Tensor, lengths: Tensor) -> tuple[float, float]:
    """Return the largest difference of scores from the reference, and the largest difference due to more padding."""
    scores, padded = net(x, lengths), 1e3 * torch.randn_like(x)
    for clip, new, length in zip(x, padded, lengths, strict=True):
        new[:length] = clip[:length]
    return tuple(float((scores - other).abs().max()) for other in (reference(x, lengths), net(padded, lengths)))  # type: ignore[return-value]


def benchmark_loop() -> list[Section]:
    """Measure the training steps of a small network on scikit-learn's digits, in one thread."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        config, data = small_run(Path(folder))
        seconds = []
        for i in range(LOOP_ROUNDS + 1):
            first, second = build_learner(config, data), build_learner(config, data)
            minimal = train_minimal(first, config, data)
            seconds.append([minimal, train_with_lightning(second, config, data, Path(folder) / str(i))])
    times = Timing([MINIMAL, RUN], np.array(seconds[1:]))  # the first round imports and allocates
    section = Section(f"Training step of the ConvNet with {data.batch_size} digits; one thread", "ms")
    section.rows = [(name, 1e3 * times.median(name), times.ratio(MINIMAL, name)) for name in times.names]
    section.requirements = [Requirement(f"duration: {RUN} / {MINIMAL}", times.ratio(RUN, MINIMAL), 1.35, False)]
    section.notes = [
        "a step is the time from one batch to the next within an epoch; both include reading, clipping and the schedule"
    ]
    return [section]


def small_run(folder: Path) -> tuple[dict[str, Any], MusicData]:
    """Return the config of a small run without progress bars, and its data."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    overrides = ["experiment=reproduction/step7/digits", "trainer=cpu", "trainer.max_epochs=1", "~callbacks.progress"]
    overrides += ["+trainer.enable_progress_bar=false", f"data.packs={folder / 'packs'}", "choices=null"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    data = datamodule.build_datamodule(config)
    data.prepare_data()
    data.setup()
    return config, data


def train_with_lightning(learner: Learner, config: dict[str, Any], data: MusicData, folder: Path) -> float:
    """Train for an epoch like a run, and return the median duration of a step in seconds."""

    class StepClock(Callback):
        """Callback that records the start of each step."""

        def __init__(self) -> None:
            self.start_times: list[float] = []

        def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
            """Record the time."""
            self.start_times.append(time.perf_counter())

    folder.mkdir()
    clock, trainer = StepClock(), build_trainer(config, folder)
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(learner, LightningData(data))
    return float(np.median(np.diff(clock.start_times)))


def train_minimal(learner: Learner, config: dict[str, Any], data: MusicData) -> float:
    """Train for an epoch without Lightning, and return the median duration of a step in seconds."""
    learner.train()
    batches = data.loader("train", train=True)
    optimisers = learner.optimiser.configure(learner, len(batches))
    optimiser, schedule = optimisers["optimizer"], optimisers["lr_scheduler"]["scheduler"]
    start_times = []
    for batch in batches:
        start_times.append(time.perf_counter())
        z = learner.readout(learner.backbone, learner.standardiser(batch.x, batch.lengths), batch.lengths)
        loss, _ = learner.task.loss(learner.task(z), batch.y)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), config["trainer"]["gradient_clip_val"])
        optimiser.step()
        schedule.step()
    return float(np.median(np.diff(start_times)))
