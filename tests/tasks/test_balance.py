"""The balance is the weighted sum of the losses, and so are its gradients."""

from __future__ import annotations

import pytest
import torch

from etude.tasks.balance import Sum


def test_without_weights_it_is_the_sum() -> None:
    losses = {"a": torch.tensor(0.5), "b": torch.tensor(2.0), "c": torch.tensor(0.25)}
    assert Sum(["a", "b", "c"])(losses).item() == 2.75


def test_weights_are_by_name_and_one_where_none_is_given() -> None:
    losses = {name: torch.tensor(value, requires_grad=True) for name, value in (("a", 0.5), ("b", 2.0), ("c", 0.25))}
    total = Sum(["c", "b", "a"], {"b": 0.1, "a": 4})(losses)
    assert total.shape == ()
    assert total.item() == pytest.approx(4 * 0.5 + 0.1 * 2.0 + 0.25)
    total.backward()
    assert [loss.grad.item() for loss in losses.values()] == pytest.approx([4.0, 0.1, 1.0])


def test_a_weight_of_zero_leaves_a_target_out() -> None:
    losses = {"a": torch.tensor(0.5), "b": torch.tensor(2.0)}
    assert Sum(["a", "b"], {"b": 0})(losses).item() == 0.5


def test_a_weight_for_no_target_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^balance\.weights names enery, mood; the task has energy, genre$"):
        Sum(["energy", "genre"], {"mood": 1.0, "enery": 2.0, "genre": 1.0})
