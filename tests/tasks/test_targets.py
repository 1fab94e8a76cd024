"""Tests of targets, their losses, missing values, shapes and predictions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import UserError
from etude.tasks.heads import Linear, Task
from etude.tasks.loss_weighting import LossWeighting
from etude.tasks.targets import Label, Scalar, Target

CLASSES = {"kind": "label", "classes": ["a", "b", "c"]}
RANGE = {"kind": "scalar", "low": 1.0, "high": 9.0}
NAN = float("nan")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["label", "scalar"])
def case(request: pytest.FixtureRequest) -> tuple[Target, Tensor, Tensor]:
    """Return a target, outputs (B, K) and true values (B,), of which the second and the last are missing."""
    if request.param == "label":
        return Label("genre", CLASSES), torch.randn(5, 3), torch.tensor([2, -1, 0, 1, -1])
    return Scalar("energy", RANGE), torch.randn(5, 1), torch.tensor([1.0, NAN, 9.0, 4.2, NAN])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_loss_equals_cross_entropy_of_torch(smoothing: float) -> None:
    out, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0])
    expected = F.cross_entropy(out, y, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(Label("genre", CLASSES, smoothing).loss(out, y), expected)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", [0.25, 1.0, 0.0, 0.0025]),
        ("mae", [0.5, 1.0, 0.0, 0.05]),
        ("huber", [0.1 * (0.5 - 0.05), 0.1 * (1.0 - 0.05), 0.0, 0.5 * 0.05**2]),
    ],
)
def test_scalar_loss_uses_the_unit_scale(loss: str, expected: list[float]) -> None:
    """Use errors of 0.5, 1, 0 and 0.05 of the range from 1 to 9, whose middle is 5."""
    out, y = torch.tensor([[0.5], [-0.5], [0.0], [-0.2]]), torch.tensor([5.0, 9.0, 5.0, 3.0])
    torch.testing.assert_close(Scalar("energy", RANGE, loss).loss(out, y), torch.tensor(expected))


def test_perfect_prediction_of_a_scalar_has_zero_loss() -> None:
    target, y = Scalar("energy", RANGE), torch.tensor([1.0, 2.5, 9.0])
    out = (y[:, None] - 5) / 8
    torch.testing.assert_close(target.predict(out), y)
    assert (target.loss(out, y) == 0).all()


def test_missing_values_have_zero_loss_and_gradient(case: tuple[Target, Tensor, Tensor]) -> None:
    target, out, y = case
    out.requires_grad_()
    loss = target.loss(out, y)
    assert target.has_label(y).tolist() == [True, False, True, True, False]
    assert loss[[1, 4]].tolist() == [0, 0]
    torch.testing.assert_close(loss[[0, 2, 3]], target.loss(out[[0, 2, 3]], y[[0, 2, 3]]))
    loss.sum().backward()
    assert (out.grad[[1, 4]] == 0).all()
    assert (out.grad[[0, 2, 3]] != 0).any(1).all()


@pytest.mark.parametrize("shape", [(5, 2), (5,), (5, 1, 1), (4, 1)])
def test_outputs_of_another_shape_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"energy: outputs must be \(B, 1\) and true values \(B,\), got .*\(5,\)"):
        Scalar("energy", RANGE).loss(torch.zeros(shape), torch.ones(5))


def test_true_values_of_another_shape_raise(case: tuple[Target, Tensor, Tensor]) -> None:
    target, out, y = case
    with pytest.raises(ValueError, match=r"true values \(B,\), got \(5, \d\) and \(5, 1\)"):
        target.loss(out, y[:, None])


def test_probabilities_are_softmax() -> None:
    out = torch.randn(6, 3) * 5
    predicted = Label("genre", CLASSES).predict(out)
    torch.testing.assert_close(predicted, out.exp() / out.exp().sum(1, keepdim=True))
    assert predicted.argmax(1).tolist() == out.argmax(1).tolist()


def test_predicted_values_are_inside_the_range() -> None:
    predicted = Scalar("energy", RANGE).predict(torch.tensor([[-5.0], [-0.5], [-0.25], [0.5], [1e6]]))
    assert predicted.tolist() == [1.0, 1.0, 3.0, 9.0, 9.0]


@pytest.mark.parametrize("output", [-3.0, 4.0])
def test_prediction_outside_the_range_has_a_gradient(output: float) -> None:
    out = torch.tensor([[output]], requires_grad=True)
    Scalar("energy", RANGE).loss(out, torch.tensor([5.0])).sum().backward()
    assert out.grad.item() * output > 0


def test_half_precision_outputs_are_converted_to_single(case: tuple[Target, Tensor, Tensor]) -> None:
    target, out, y = case
    assert target.loss(out.bfloat16(), y).dtype == torch.float32
    assert target.predict(out.bfloat16()).dtype == torch.float32


def test_unknown_loss_raises() -> None:
    with pytest.raises(
        ValueError, match="target energy: loss must be one of mse, mae, huber, or a function, got 'mape'"
    ):
        Scalar("energy", RANGE, "mape")


def test_balanced_weights_equal_scikit_learn() -> None:
    """Compare with `class_weight="balanced"`. A class without training clips has no influence."""
    from sklearn.utils.class_weight import compute_class_weight

    y = torch.tensor([0] * 5 + [1] * 2 + [2])
    target = Label("genre", {"classes": list("abcd"), "counts": [5, 2, 1, 0]}, class_weight="balanced")
    assert target.weight is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y.numpy())
    torch.testing.assert_close(target.weight[:3].double(), torch.from_numpy(expected))
    out = torch.randn(8, 4)
    plain = Label("genre", {"classes": list("abcd")}).loss(out, y)
    torch.testing.assert_close(target.loss(out, y), plain * target.weight[y])
    assert target.weight[y].mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="target genre: class_weight must be balanced or null, got 'even'"):
        Label("genre", {"classes": list("abcd")}, class_weight="even")


@pytest.mark.parametrize("bounded", [False, True])
def test_initial_scalar_is_the_middle_with_equal_slope_if_bounded(bounded: bool) -> None:
    target = Scalar("tempo", {"low": 40.0, "high": 240.0}, bounded=bounded)
    out = torch.zeros(1, 1, requires_grad=True)
    assert target.predict(out).item() == pytest.approx(140)
    (slope,) = torch.autograd.grad(target.predict(out).sum(), out)
    assert slope.item() == pytest.approx(200)
    predicted = target.predict(torch.tensor([[-9.0], [9.0]]))
    assert predicted.min() >= 40 and predicted.max() <= 240
    far = target.loss(torch.tensor([[9.0]]), torch.tensor([240.0]))
    assert (far < 1e-6).item() is bounded  # a bounded output cannot overshoot


def weighted_mean(out: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return (weights * F.cross_entropy(out, y, reduction="none")).sum() / weights.sum()


def test_function_as_loss_of_a_scalar_equals_the_built_in_one() -> None:
    """The function receives positions in the range, of clips with a true value only."""
    out, y = torch.randn(4, 1, requires_grad=True), torch.tensor([1.0, NAN, 9.0, 4.2])
    losses = [Scalar("energy", RANGE, loss).loss(out, y) for loss in ("mse", partial(F.mse_loss, reduction="none"))]
    torch.testing.assert_close(losses[1], losses[0])
    gradients = [torch.autograd.grad(loss.sum(), out)[0] for loss in losses]
    torch.testing.assert_close(gradients[1], gradients[0])
    missing = Scalar("energy", RANGE, F.mse_loss).loss(out, torch.full((4,), NAN))
    assert missing.tolist() == [0, 0, 0, 0] and missing.requires_grad


@pytest.mark.parametrize("weight", [None, [1.0, 3.0, 2.0]])
def test_function_that_returns_a_mean_is_the_loss_of_the_batch(weight: list[float] | None) -> None:
    weights = None if weight is None else torch.tensor(weight)
    out, y = {"genre": torch.randn(3, 3)}, {"genre": torch.tensor([0, 2, -1])}
    tasks = [
        Task([Label("genre", CLASSES, loss=loss)], Linear, LossWeighting, 4)
        for loss in ("cross_entropy", weighted_mean)
    ]
    expected, loss = (task.loss(out, y, weights)[0] for task in tasks)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda out, y: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (
            lambda out, y: torch.ones(2, 3),
            r"returned a tensor of shape \(2, 3\) for 2 clips; it must return their losses",
        ),
        (lambda out, y: 1.5, "returned 1.5 for 2 clips; it must return their losses or their mean"),
        (lambda out, y: out.detach().sum(1), "returned a loss without a gradient; compute it from the predictions"),
        (
            lambda out, y: F.cross_entropy(out, y),
            "returned one number, but the clips have weights, as with augment=mixup",
        ),
    ],
)
def test_function_that_is_not_a_loss_is_refused(function: Callable[..., Tensor], message: str) -> None:
    target, weights = Label("genre", CLASSES, loss=function), torch.ones(2)
    with pytest.raises(UserError, match=rf"^task\.targets\.genre\.loss: <lambda> {message}"):
        target.loss(torch.randn(2, 3, requires_grad=True), torch.tensor([0, 2]), weights)


def test_function_as_loss_has_no_smoothing() -> None:
    with pytest.raises(
        ValueError, match="target genre: smoothing and class_weight must be unset if loss is a function"
    ):
        Label("genre", CLASSES, 0.1, loss=F.cross_entropy)
    with pytest.raises(ValueError, match="target genre: loss must be cross_entropy or a function, got 'mse'"):
        Label("genre", CLASSES, loss="mse")
