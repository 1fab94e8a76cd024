"""The networks that are timed against each other are the same network, and what is counted of them is what they do."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from etude.benchmarks import loop, models, startup, transformer
from etude.benchmarks.timing import Bar, Section, flops, peak
from etude.benchmarks.training import clips, steps
from etude.training.build import build_learner


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and clips of a size that takes seconds."""
    for name, value in (("FRAMES", 130), ("CROPS", (70,)), ("DEPTH", 3), ("ROUNDS", 1)):
        monkeypatch.setattr(transformer, name, value)
    cases = (models.LSTMCase(2, 8, 20, 4, 2, 1, 3), models.LSTMCase(3, 6, 30, 4, 1, 1, None))
    monkeypatch.setattr(models, "CASES", cases)
    for name, value in (("FRAMES", 69), ("CHANNELS", (4, 8)), ("ROUNDS", 1)):
        monkeypatch.setattr(models, name, value)


def exact(sections: list[Section]) -> list[Bar]:
    """The bars that are no ratio of times."""
    return [bar for section in sections for bar in section.bars if "difference" in bar.name or "memory" in bar.name]


@pytest.mark.usefixtures("small")
def test_what_is_timed_is_the_same_network() -> None:
    pytest.importorskip("transformers")
    sections = models.run()
    assert [len(section.rows) for section in sections] == [7, 3, 2, 3]
    for section in sections:
        assert all(value > 0 for _, value, _ in section.rows)
        assert section.rows[0][2] == 1
        assert all(len(column) == len(section.rows) and min(column) > 0 for column in section.further.values())
    bars = exact(sections)
    assert len(bars) == 7
    assert all(bar.holds for bar in bars), bars
    work = dict(zip([name for name, *_ in sections[0].rows], sections[0].further["GFLOP a step"], strict=True))
    assert work[transformer.HALF] < work[transformer.OURS] < work[transformer.SDPA]
    assert work[transformer.KEPT] < work[transformer.FROZEN] < work[transformer.OURS]


@pytest.mark.usefixtures("small")
def test_without_transformers_ours_is_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "find_spec", lambda name: None)
    section = transformer.section()
    assert [name.split()[0].rstrip(",") for name, *_ in section.rows] == ["ours"] * 5
    assert section.notes == ["transformers is not installed and was not timed"]
    assert len(section.bars) == 3


def test_frozen_is_what_a_transfer_freezes() -> None:
    net = transformer._frozen(transformer.Classifier(transformer._ast(4)))
    before = deepcopy(net.state_dict())
    steps(net, [clips([40, 33], transformer.BINS)])()
    learned = {name.split(".")[2] if ".blocks." in name else name.split(".")[1]
               for name, value in net.state_dict().items() if not torch.equal(value, before[name])}  # fmt: skip
    assert learned == {"2", "3", "norm", "weight", "bias"}


@pytest.mark.parametrize("training", [False, True])
def test_operations_are_counted(training: bool) -> None:
    """A training step is a pass forward and, but for the gradient of the input, two backward."""
    x = torch.randn(3, 7, 5)  # (B, T, C)
    for layer, once, inputs in (
        (nn.Linear(5, 4), 2 * 21 * 5 * 4, 0),
        (nn.LSTM(5, 4, batch_first=True), 2 * 21 * 16 * (5 + 4), 2 * 21 * 16 * (5 + 4)),
    ):

        def run(layer: nn.Module = layer) -> None:
            out = layer(x)
            if training:
                (out[0] if isinstance(out, tuple) else out).sum().backward()

        assert flops(run) == once * (2 if training else 1) + inputs * training


def test_the_peak_of_memory_is_what_is_held_at_once() -> None:
    held = torch.ones(5000)  # there before

    def run() -> None:
        for _ in range(3):
            first = torch.ones(2000)
            second = first + 1
            del first
            torch.cat([second, held])

    assert peak(run) == 4 * (2000 + 7000)


def test_a_step_of_a_run_learns_what_the_bare_loop_learns(tmp_path: Path) -> None:
    config, data = loop.small(tmp_path)
    torch.manual_seed(0)  # of one draw in twenty the last bit of a sum, which differs, grows to 1e-4
    one = build_learner(config, data)
    other, before = deepcopy(one), deepcopy(one.state_dict())
    assert loop.bare(one, config, data) > 0
    assert loop.lightning(other, config, data, tmp_path / "run") > 0
    assert (tmp_path / "run" / "curves.csv").is_file()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")
        assert name.startswith("standardiser.") or not torch.equal(value, before[name])


def test_the_loop_is_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "ROUNDS", 1)
    (section,) = loop.run()
    assert [name for name, *_ in section.rows] == [loop.BARE, loop.RUN]
    (bar,) = section.bars
    assert bar.value == pytest.approx(section.rows[1][1] / section.rows[0][1])  # of one round
    assert (bar.limit, bar.at_least, bar.unit) == (1.35, False, "×")


def test_help_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "ROUNDS", 1)
    (section,) = startup.run()
    assert section.rows[0][0] == "python train.py --help"
    assert section.bars[1].holds, section.notes


def test_what_is_heavy_is_found_in_the_list_of_imports() -> None:
    listing = "import time: self [us] | cumulative | imported package\n" + "\n".join(
        f"import time:        90 |         90 | {name}" for name in ("  torch.nn", "    wandb", "torchless", "librosa")
    )
    assert startup.heavy(listing) == ["librosa", "wandb"]
