"""Tests of loss weightings by their formulas, with missing labels, and in training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from etude.config.compose import conf_dir
from etude.data.batches import Batch
from etude.tasks.loss_weighting import LossWeighting, RandomWeighting, UncertaintyWeighting, WeightedSum
from etude.training.build import build_from_recipe
from etude.training.optimiser import Optimiser

if TYPE_CHECKING:
    from etude.training.learner import Learner

NAMES = sorted(path.stem for path in (conf_dir() / "weighting").glob("*.yaml"))
KINDS = {"genre": "label", "energy": "scalar", "valence": "scalar"}


def losses(**values: float) -> dict[str, Tensor]:
    """Return losses by target that require gradients."""
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


# sum


def test_weighted_sum_without_weights_is_the_sum() -> None:
    assert WeightedSum(["a", "b", "c"])(losses(a=0.5, b=2.0, c=0.25)).item() == 2.75


def test_weights_are_assigned_by_name_with_default_one() -> None:
    weighting, each = WeightedSum(["c", "b", "a"], {"b": 0.1, "a": 4}), losses(a=0.5, b=2.0, c=0.25)
    total = weighting(each)
    assert total.shape == ()
    assert total.item() == pytest.approx(4 * 0.5 + 0.1 * 2.0 + 0.25)
    assert weighting.weights == {"a": 4.0, "b": 0.1, "c": 1.0}
    total.backward()
    assert [loss.grad.item() for loss in each.values()] == pytest.approx([4.0, 0.1, 1.0])


def test_weight_of_zero_excludes_a_target() -> None:
    assert WeightedSum(["a", "b"], {"b": 0})(losses(a=0.5, b=2.0)).item() == 0.5


def test_weight_of_an_unknown_target_raises() -> None:
    with pytest.raises(ValueError, match=r"^weighting\.weights: unknown enery, mood; the task has energy, genre$"):
        WeightedSum(["energy", "genre"], {"mood": 1.0, "enery": 2.0, "genre": 1.0})


# random


def test_random_weights_have_mean_one_and_sum_to_the_number_of_targets() -> None:
    torch.manual_seed(0)
    weighting, drawn = RandomWeighting(KINDS), []
    for _ in range(2000):
        each = losses(genre=0.5, energy=2.0, valence=1.0)
        total = weighting(each)
        total.backward()
        weights = [loss.grad.item() for loss in each.values()]
        assert weights == pytest.approx(list(weighting.weights.values()))
        assert total.item() == pytest.approx(weights[0] * 0.5 + weights[1] * 2.0 + weights[2], rel=1e-5)
        drawn.append(weights)
    assert torch.tensor(drawn).sum(1).allclose(torch.tensor(3.0), atol=1e-4)
    assert torch.tensor(drawn).mean(0).allclose(torch.ones(3), atol=0.06)
    assert torch.tensor(drawn).std(0).min() > 0.3


def test_random_weights_are_one_in_evaluation() -> None:
    assert RandomWeighting(KINDS).eval()(losses(genre=0.5, energy=2.0, valence=1.0)).item() == 3.5


# uncertainty


def test_uncertainty_equals_the_formula_of_the_paper() -> None:
    weighting = UncertaintyWeighting(KINDS, rate=1.0)
    s = {"genre": 0.7, "energy": -1.2, "valence": 0.0}
    for name, value in s.items():
        weighting.log_variance[name].data.fill_(value)
    each = losses(genre=1.5, energy=0.4, valence=0.2)
    total = weighting(each)
    noise = {name: torch.tensor(value / 2).exp() for name, value in s.items()}  # sigma
    expected = (
        1.5 / noise["genre"] ** 2 + 0.4 / (2 * noise["energy"] ** 2) + 0.2 / 2 + sum(map(torch.log, noise.values()))
    )
    torch.testing.assert_close(total, expected)
    total.backward()
    for name, share in (("genre", 1.0), ("energy", 0.5), ("valence", 0.5)):
        weight = share / noise[name] ** 2
        torch.testing.assert_close(weighting.weights[name], weight)
        torch.testing.assert_close(each[name].grad, weight)
        torch.testing.assert_close(weighting.log_variance[name].grad, 0.5 - weight * each[name].detach())


def test_learned_variance_equals_the_losses() -> None:
    weighting = UncertaintyWeighting(KINDS, rate=10.0)
    optimiser = torch.optim.Adam(weighting.parameters(), lr=1e-2)
    for _ in range(500):
        optimiser.zero_grad()
        weighting(losses(genre=1.5, energy=0.04, valence=0.3)).backward()
        optimiser.step()
    variance = {name: (10 * value).exp().item() for name, value in weighting.log_variance.items()}
    assert variance == pytest.approx({"genre": 3.0, "energy": 0.04, "valence": 0.3}, rel=1e-2)


def test_rate_scales_s_and_not_its_gradient() -> None:
    slow, fast = UncertaintyWeighting(KINDS, rate=1.0), UncertaintyWeighting(KINDS, rate=50.0)
    slow.log_variance["energy"].data.fill_(-0.5)
    fast.log_variance["energy"].data.fill_(-0.01)
    for weighting in (slow, fast):
        weighting(losses(genre=1.5, energy=0.4, valence=0.2)).backward()
    torch.testing.assert_close(fast.weights, slow.weights)
    parameter_gradients = [[p.grad for p in weighting.parameters()] for weighting in (slow, fast)]
    torch.testing.assert_close(parameter_gradients[0], parameter_gradients[1])


def test_target_without_labels_has_no_influence_and_constant_weight() -> None:
    weighting = UncertaintyWeighting(KINDS, rate=10.0)
    weighting.log_variance["genre"].data.fill_(0.3)
    optimiser = torch.optim.Adam(weighting.parameters(), lr=1e-2)

    def step(has_labels: bool) -> float:
        optimiser.zero_grad()
        mask = {"genre": torch.tensor(has_labels), "energy": torch.tensor(True), "valence": torch.tensor(True)}
        total = weighting(losses(genre=2.0 if has_labels else 0.0, energy=0.4, valence=0.2), mask)
        total.backward()
        weighting.before_step()
        optimiser.step()
        return total.item()

    step(True)  # now Adam has a momentum for it
    before = {name: value.item() for name, value in weighting.log_variance.items()}
    e, v = 10 * before["energy"], 10 * before["valence"]
    expected = 0.2 * torch.tensor(-e).exp() + e / 2 + 0.1 * torch.tensor(-v).exp() + v / 2
    assert step(False) == pytest.approx(expected.item(), rel=1e-5)
    after = {name: value.item() for name, value in weighting.log_variance.items()}
    assert after["genre"] == before["genre"]
    assert after["energy"] != before["energy"]


def test_log_variance_has_no_weight_decay() -> None:
    weighting = UncertaintyWeighting(KINDS)
    groups = Optimiser(weight_decay=0.1).configure(weighting, 10)["optimizer"].param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.0, 3)]


# in training


def batch(seed: int, *missing: str) -> Batch:
    """Return eight clips with one of three classes and two values each, some of them missing."""
    generator = torch.Generator().manual_seed(seed)
    y = {"genre": torch.randint(3, (8,), generator=generator)}
    y |= {name: torch.rand(8, generator=generator) for name in ("energy", "valence")}
    y["valence"][:3] = float("nan")
    for name in missing:
        y[name] = torch.full_like(y[name], -1 if name == "genre" else float("nan"))
    x = torch.randn(8, 40, 12, generator=generator).half()
    return Batch(x, torch.full((8,), 40), y, torch.arange(8))


@pytest.fixture
def learn(config: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., tuple[Learner, dict[str, float]]]:
    """Return a function that trains a small network for one epoch and returns the learner and the logged values."""
    from pytorch_lightning import Trainer

    def train(weighting: str, *batches: Batch, accumulate: int = 1) -> tuple[Learner, dict[str, float]]:
        composed = config(f"weighting={weighting}", "task=joint", "~task.targets.danceability", "backbone=lstm",
                          "backbone.dropout=0", "augment=none", "optim=adam", "optim.lr=1e-2")  # fmt: skip
        specs: dict[str, Any] = {name: {"kind": "scalar", "low": 0.0, "high": 1.0} for name in ("energy", "valence")}
        specs["genre"] = {"kind": "label", "classes": ["a", "b", "c"]}
        torch.manual_seed(0)
        learner = build_from_recipe({"config": composed, "targets": specs, "bins": 12})
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accumulate_grad_batches=accumulate, gradient_clip_val=1.0,
            default_root_dir=str(tmp_path),
        )  # fmt: skip
        if batches:
            trainer.fit(learner, DataLoader(list(batches), batch_size=None))
        return learner, {key: float(value) for key, value in trainer.callback_metrics.items()}

    return train


@pytest.mark.parametrize("name", NAMES)
def test_every_weighting_trains_and_logs_losses_and_weights(name: str, learn: Callable[..., Any]) -> None:
    fresh, _ = learn(name)
    learner, logged = learn(name, batch(0), batch(1, "genre"), batch(2, "energy", "valence"), batch(3))
    assert isinstance(learner.task.weighting, LossWeighting)
    for target in KINDS:
        assert logged[f"train/{target}/weight"] > 0
        assert 0 < logged[f"train/{target}/loss"] < 2
    for (key, after), before in zip(learner.named_parameters(), fresh.parameters(), strict=True):
        assert after.isfinite().all(), key
        assert not after.equal(before), key


@pytest.mark.parametrize("name", NAMES)
def test_batch_without_labels_does_not_change_learned_weights(name: str, learn: Callable[..., Any]) -> None:
    unlabelled = batch(1, *KINDS)
    once, _ = learn(name, batch(0))
    twice, logged = learn(name, batch(0), unlabelled)
    assert logged["train/loss"] == logged["train/loss"]  # not NaN
    torch.testing.assert_close(twice.task.weighting.state_dict(), once.task.weighting.state_dict(), rtol=0, atol=0)


def test_logged_loss_is_the_mean_over_labelled_clips(learn: Callable[..., Any]) -> None:
    _, first = learn("sum", batch(0))
    _, both = learn("sum", batch(0), batch(1, "genre"))
    assert both["train/genre/loss"] == first["train/genre/loss"]


@pytest.mark.parametrize("name", ["sum", "uncertainty", "pcgrad"])
def test_two_accumulated_equal_batches_equal_one_step(name: str, learn: Callable[..., Any]) -> None:
    once, _ = learn(name, batch(0))
    twice, _ = learn(name, batch(0), batch(0), accumulate=2)
    if name != "pcgrad":  # PCGrad projects in random order
        torch.testing.assert_close(dict(twice.named_parameters()), dict(once.named_parameters()))
    torch.testing.assert_close(dict(twice.task.heads.named_parameters()), dict(once.task.heads.named_parameters()))
