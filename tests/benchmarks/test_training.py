"""Tests that compared networks are equal, and that operations and memory are counted correctly."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from etude.benchmarks import loading, training, transformer
from etude.benchmarks.timing import Requirement, Section, count_flops, peak_memory, random_batch, training_steps
from etude.training.build import build_learner


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks and clips that take seconds."""
    for name, value in (("FRAMES", 130), ("CROPS", (70,)), ("DEPTH", 3), ("ROUNDS", 1)):
        monkeypatch.setattr(transformer, name, value)
    cases = (training.LSTMCase(2, 8, 20, 4, 2, 1, 3), training.LSTMCase(3, 6, 30, 4, 1, 1, None))
    monkeypatch.setattr(training, "CASES", cases)
    for name, value in (("FRAMES", 69), ("CHANNELS", (4, 8)), ("ROUNDS", 1), ("MUSICNN_LENGTHS", (200, 380))):
        monkeypatch.setattr(training, name, value)


def exact_requirements(sections: list[Section]) -> list[Requirement]:
    """Return the requirements that are not ratios of durations."""
    requirements = [requirement for section in sections for requirement in section.requirements]
    return [
        requirement for requirement in requirements if "difference" in requirement.name or "memory" in requirement.name
    ]


@pytest.mark.full
@pytest.mark.usefixtures("small")
def test_compared_networks_are_equal() -> None:
    pytest.importorskip("transformers")
    sections = training.benchmark_models()
    assert [len(section.rows) for section in sections] == [7, 3, 2, 3, 2]
    for section in sections:
        assert all(value > 0 for _, value, _ in section.rows)
        assert section.rows[0][2] == 1
        assert all(len(column) == len(section.rows) and min(column) > 0 for column in section.columns.values())
    requirements = exact_requirements(sections)
    assert len(requirements) == 8
    assert all(requirement.met for requirement in requirements), requirements
    flops = dict(zip([name for name, *_ in sections[0].rows], sections[0].columns["GFLOP per step"], strict=True))
    assert flops[transformer.HALF] < flops[transformer.ETUDE] < flops[transformer.SDPA]
    assert flops[transformer.CACHED] < flops[transformer.FROZEN] < flops[transformer.ETUDE]


@pytest.mark.usefixtures("small")
def test_transformer_is_timed_alone_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "find_spec", lambda name: None)
    section = transformer.time_transformer()
    assert [name.split()[0].rstrip(",") for name, *_ in section.rows] == ["etude"] * 5
    assert section.notes == ["transformers is not installed and was not timed"]
    assert len(section.requirements) == 3


def test_frozen_layers_are_those_of_a_transfer() -> None:
    net = transformer._freeze(transformer.Classifier(transformer._ast(4)))
    before = deepcopy(net.state_dict())
    training_steps(net, [random_batch([40, 33], transformer.BINS)])()
    changed = {name.split(".")[2] if ".blocks." in name else name.split(".")[1]
               for name, value in net.state_dict().items() if not torch.equal(value, before[name])}  # fmt: skip
    assert changed == {"2", "3", "norm", "weight", "bias"}


@pytest.mark.parametrize("training", [False, True])
def test_operations_are_counted(training: bool) -> None:
    """A training step is one forward pass and two backward passes, except for the gradient of the input."""
    x = torch.randn(3, 7, 5)  # (B, T, C)
    for layer, forward, inputs in (
        (nn.Linear(5, 4), 2 * 21 * 5 * 4, 0),
        (nn.LSTM(5, 4, batch_first=True), 2 * 21 * 16 * (5 + 4), 2 * 21 * 16 * (5 + 4)),
    ):

        def step(layer: nn.Module = layer) -> None:
            out = layer(x)
            if training:
                (out[0] if isinstance(out, tuple) else out).sum().backward()

        assert count_flops(step) == forward * (2 if training else 1) + inputs * training


def test_peak_memory_counts_simultaneous_allocations() -> None:
    existing = torch.ones(5000)  # allocated before

    def allocate() -> None:
        for _ in range(3):
            first = torch.ones(2000)
            second = first + 1
            del first
            torch.cat([second, existing])

    assert peak_memory(allocate) == 4 * (2000 + 7000)


def test_run_and_minimal_loop_train_the_same_network(tmp_path: Path) -> None:
    config, data = training.small_run(tmp_path)
    torch.manual_seed(0)  # with 1 of 20 seeds, a difference in the last bit of a sum grows to 1e-4
    learner = build_learner(config, data)
    other, before = deepcopy(learner), deepcopy(learner.state_dict())
    assert training.train_minimal(learner, config, data) > 0
    assert training.train_with_lightning(other, config, data, tmp_path / "run") > 0
    assert (tmp_path / "run" / "curves.csv").is_file()
    for name, value in learner.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")
        assert name.startswith("standardiser.") or not torch.equal(value, before[name])


def test_loop_benchmark_is_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOOP_ROUNDS", 1)
    (section,) = training.benchmark_loop()
    assert [name for name, *_ in section.rows] == [training.MINIMAL, training.RUN]
    (requirement,) = section.requirements
    assert requirement.value == pytest.approx(section.rows[1][1] / section.rows[0][1])  # in a single round
    assert (requirement.limit, requirement.at_least, requirement.unit) == (1.35, False, "×")


def test_help_imports_no_heavy_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "ROUNDS", 1)
    section = loading._time_help()
    assert section.rows[0][0] == "python train.py --help"
    assert section.requirements[1].met, section.notes


def test_commands_are_compared_with_the_import_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(loading, "_python", lambda *arguments: commands.append(arguments) or "")
    monkeypatch.setattr(loading, "run_etude", lambda folder, *arguments: commands.append(tuple(map(str, arguments))))
    section = loading.time_commands(3)
    assert [name for name, *_ in section.rows] == [loading.TORCH, loading.PREDICT, loading.TRAIN, loading.EXPORT]
    assert [(r.limit, r.at_least, r.unit) for r in section.requirements] == [(n, False, "×") for n in (2, 3, 4)]
    assert [r.value for r in section.requirements] == pytest.approx([1 / ratio for *_, ratio in section.rows[1:]])
    assert [command[0] for command in commands] == ["train", *(["-c", "predict", "train", "export"] * 4)]
    outputs = [command[-1] for command in commands if command[0] != "-c"]
    assert len(set(outputs)) == len(outputs)  # a repeated folder would be resumed


def test_heavy_packages_are_found_in_the_list_of_imports() -> None:
    listing = "import time: self [us] | cumulative | imported package\n" + "\n".join(
        f"import time:        90 |         90 | {name}" for name in ("  torch.nn", "    wandb", "torchless", "librosa")
    )
    assert loading.heavy_imports(listing) == ["librosa", "wandb"]
