"""Tests of heads, including equality with their formulas, and of tasks with one and several targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.config.compose import conf_dir
from etude.config.instantiate import make
from etude.tasks.heads import MLP, Linear, Task
from etude.tasks.loss_weighting import UncertaintyWeighting, WeightedSum
from etude.tasks.targets import Label, Scalar, module_key

NAMES = sorted(path.stem for path in (conf_dir() / "head").glob("*.yaml"))
NAN = float("nan")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=NAMES)
def head(config: Callable[..., dict[str, Any]], request: pytest.FixtureRequest) -> nn.Module:
    return make(config(f"head={request.param}")["head"], 24, 5).eval()


def test_outputs_have_shape_b_by_k_and_depend_on_one_clip(head: nn.Module) -> None:
    z = torch.randn(7, 24)
    out = head(z)
    assert out.shape == (7, 5)
    torch.testing.assert_close(torch.cat([head(clip[None]) for clip in z]), out)


def test_every_parameter_and_the_embedding_have_a_gradient(head: nn.Module) -> None:
    z = torch.randn(7, 24, requires_grad=True)
    head(z).square().sum().backward()
    assert (z.grad != 0).any(1).all()
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_linear_is_an_affine_map() -> None:
    head, z = Linear(24, 5, dropout=0.9).eval(), torch.randn(7, 24)
    weight, bias = head.parameters()
    torch.testing.assert_close(head(z), z @ weight.T + bias)


def test_linear_drops_units_of_the_embedding_in_training() -> None:
    head = Linear(24, 5, dropout=1.0).train()
    _, bias = head.parameters()
    torch.testing.assert_close(head(torch.randn(7, 24)), bias.expand(7, -1))


def test_norm_of_linear_equals_batch_norm() -> None:
    """Compare with torch's batch norm in training and evaluation. A batch of one clip is valid."""
    z = torch.randn(64, 24) * torch.logspace(-2, 3, 24)
    head, reference = Linear(24, 5, norm=True).train(), nn.BatchNorm1d(24).train()
    affine = head.layers[1]
    for _ in range(3):
        torch.testing.assert_close(head(z), affine(reference(z)))
    torch.testing.assert_close(head.eval()(z), affine(reference.eval()(z)))
    assert head.train()(z[:1]).isfinite().all()


def test_mlp_equals_its_formula() -> None:
    head, z = MLP(24, 5, hidden=16).eval(), torch.randn(7, 24)
    _, _, inner, inner_bias, outer, outer_bias = head.parameters()
    normal = (z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden = F.gelu(normal @ inner.T + inner_bias)
    assert hidden.shape == (7, 16)
    torch.testing.assert_close(head(z), hidden @ outer.T + outer_bias, atol=1e-5, rtol=1e-5)


def test_mlp_does_not_depend_on_the_scale_of_the_embedding() -> None:
    head, z = MLP(24, 5).eval(), torch.randn(7, 24)
    torch.testing.assert_close(head(100 * z + 3), head(z), atol=1e-3, rtol=1e-3)


def task(*names: str, weights: dict[str, float] | None = None) -> Task:
    """Return a task in which the weights of each head depend only on its target."""
    targets = [
        Label("genre", {"classes": ["a", "b", "c"]}),
        Scalar("energy", {"low": 0.0, "high": 1.0}),
        Scalar("valence", {"low": -1.0, "high": 1.0}),
    ]
    result = Task([t for t in targets if t.name in names], Linear, lambda names: WeightedSum(names, weights), dim=6)
    for name, head in result.heads.items():
        generator = torch.Generator().manual_seed(len(name))
        for weight in head.parameters():
            weight.data.normal_(generator=generator)
    return result


@pytest.fixture
def z() -> Tensor:
    """Return embeddings (5, 6)."""
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y() -> dict[str, Tensor]:
    """Return true values by target, some of them missing."""
    return {
        "genre": torch.tensor([2, -1, 0, 1, -1]),
        "energy": torch.tensor([0.1, 0.9, NAN, 0.5, 0.3]),
        "valence": torch.tensor([0.5, -0.2, 0.1, -0.9, 1.0]),
    }


def test_loss_is_the_sum_of_means_over_labelled_clips(z: Tensor, y: dict[str, Tensor]) -> None:
    multitask = task("genre", "energy", "valence", weights={"energy": 0.5})
    out = multitask(z)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "genre": (5, 3), "energy": (5, 1), "valence": (5, 1),
    }  # fmt: skip
    loss, each = multitask.loss(out, y)
    expected = {
        "genre": F.cross_entropy(out["genre"], y["genre"], ignore_index=-1),
        "energy": F.mse_loss(out["energy"][[0, 1, 3, 4], 0] + 0.5, y["energy"][[0, 1, 3, 4]]),
        "valence": F.mse_loss(out["valence"][:, 0] + 0.5, (y["valence"] + 1) / 2),
    }
    torch.testing.assert_close(each, expected)
    torch.testing.assert_close(loss, expected["genre"] + 0.5 * expected["energy"] + expected["valence"])


@pytest.mark.parametrize("name", ["genre", "energy", "valence"])
def test_single_target_equals_the_same_target_in_a_multitask(name: str, z: Tensor, y: dict[str, Tensor]) -> None:
    single, multitask = task(name), task("genre", "energy", "valence")
    torch.testing.assert_close(single(z)[name], multitask(z)[name])
    loss, each = single.loss(single(z), y)
    torch.testing.assert_close(loss, multitask.loss(multitask(z), y)[1][name])
    torch.testing.assert_close(loss, each[name])
    torch.testing.assert_close(single.predict(single(z))[name], multitask.predict(multitask(z))[name])


def test_clips_without_a_label_do_not_change_loss_and_gradient(z: Tensor, y: dict[str, Tensor]) -> None:
    labelled = [0, 2, 3]
    results = []
    for rows in ([0, 1, 2, 3, 4], labelled):
        result = task("genre")
        loss, _ = result.loss(result(z[rows]), {"genre": y["genre"][rows]})
        loss.backward()
        results.append((loss, [weight.grad for weight in result.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_batch_without_labels_has_zero_gradient(z: Tensor, y: dict[str, Tensor]) -> None:
    result = task("genre", "energy")
    unlabelled = {"genre": torch.full((5,), -1), "energy": torch.full((5,), NAN)}
    loss, each = result.loss(result(z), unlabelled)
    loss.backward()
    assert loss == each["genre"] == each["energy"] == 0
    assert all((weight.grad == 0).all() for weight in result.parameters())


def test_predictions_are_probabilities_and_values_without_gradient(z: Tensor) -> None:
    result = task("genre", "valence")
    predicted = result.predict(result(100 * z))
    assert predicted["genre"].shape == (5, 3)
    torch.testing.assert_close(predicted["genre"].sum(1), torch.ones(5))
    assert predicted["valence"].shape == (5,)
    assert predicted["valence"].abs().max() == 1
    assert not any(value.requires_grad for value in predicted.values())


def test_target_of_any_name_has_a_head_and_a_weight(z: Tensor) -> None:
    names = ["type", "pop", "train", "items", "forward", "_modules", "mood.valence", "a%b", "%74ype", "Größe", "genre"]
    targets = [Label(name, {"classes": ["a", "b"]}) for name in names]
    result = Task(targets, Linear, UncertaintyWeighting, dim=6)
    out = result(z)
    assert list(out) == names
    y = {name: torch.tensor([0, 1, 0, 1, -1]) for name in names}
    result.loss(out, y)[0].backward()
    assert all(parameter.grad is not None for parameter in result.parameters())
    assert len({module_key(name) for name in names}) == len(names)
    loaded = Task(targets, Linear, UncertaintyWeighting, dim=6)
    loaded.load_state_dict(result.state_dict())
    torch.testing.assert_close(loaded(z), out)


def test_usual_names_of_targets_are_unchanged_in_checkpoints() -> None:
    for name in ("genre", "valence", "energy", "danceability", "digit", "Größe", "mood-2"):
        assert module_key(name) == name
