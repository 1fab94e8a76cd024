"""A single target is a multitask of one, and what is missing changes nothing for the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from etude.tasks.heads import Linear
from etude.tasks.loss_weighting import UncertaintyWeighting, WeightedSum
from etude.tasks.targets import Label, Scalar, module_key
from etude.tasks.task import Task

NAN = float("nan")


def task(*names: str, weights: dict[str, float] | None = None) -> Task:
    """Heads with the same weights for the same target, whatever stands beside it."""
    targets = [
        Label("genre", {"classes": ["a", "b", "c"]}),
        Scalar("energy", {"low": 0.0, "high": 1.0}),
        Scalar("valence", {"low": -1.0, "high": 1.0}),
    ]
    made = Task([t for t in targets if t.name in names], Linear, lambda names: WeightedSum(names, weights), dim=6)
    for name, head in made.heads.items():
        generator = torch.Generator().manual_seed(len(name))
        for weight in head.parameters():
            weight.data.normal_(generator=generator)
    return made


@pytest.fixture
def z() -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y() -> dict[str, Tensor]:
    return {
        "genre": torch.tensor([2, -1, 0, 1, -1]),
        "energy": torch.tensor([0.1, 0.9, NAN, 0.5, 0.3]),
        "valence": torch.tensor([0.5, -0.2, 0.1, -0.9, 1.0]),
    }


def test_the_loss_is_the_sum_of_means_over_what_is_known(z: Tensor, y: dict[str, Tensor]) -> None:
    every = task("genre", "energy", "valence", weights={"energy": 0.5})
    out = every(z)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "genre": (5, 3), "energy": (5, 1), "valence": (5, 1),
    }  # fmt: skip
    loss, each = every.loss(out, y)
    expected = {
        "genre": F.cross_entropy(out["genre"], y["genre"], ignore_index=-1),
        "energy": F.mse_loss(out["energy"][[0, 1, 3, 4], 0] + 0.5, y["energy"][[0, 1, 3, 4]]),
        "valence": F.mse_loss(out["valence"][:, 0] + 0.5, (y["valence"] + 1) / 2),
    }
    torch.testing.assert_close(each, expected)
    torch.testing.assert_close(loss, expected["genre"] + 0.5 * expected["energy"] + expected["valence"])


@pytest.mark.parametrize("name", ["genre", "energy", "valence"])
def test_a_multitask_of_one_is_that_target(name: str, z: Tensor, y: dict[str, Tensor]) -> None:
    one, every = task(name), task("genre", "energy", "valence")
    torch.testing.assert_close(one(z)[name], every(z)[name])
    loss, each = one.loss(one(z), y)
    torch.testing.assert_close(loss, every.loss(every(z), y)[1][name])
    torch.testing.assert_close(loss, each[name])
    torch.testing.assert_close(one.predict(one(z))[name], every.predict(every(z))[name])


def test_clips_without_a_label_change_no_mean_and_no_gradient(z: Tensor, y: dict[str, Tensor]) -> None:
    known = [0, 2, 3]
    results = []
    for rows in ([0, 1, 2, 3, 4], known):
        made = task("genre")
        loss, _ = made.loss(made(z[rows]), {"genre": y["genre"][rows]})
        loss.backward()
        results.append((loss, [weight.grad for weight in made.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_a_batch_without_any_label_teaches_nothing(z: Tensor, y: dict[str, Tensor]) -> None:
    made = task("genre", "energy")
    nothing = {"genre": torch.full((5,), -1), "energy": torch.full((5,), NAN)}
    loss, each = made.loss(made(z), nothing)
    loss.backward()
    assert loss == each["genre"] == each["energy"] == 0
    assert all((weight.grad == 0).all() for weight in made.parameters())


def test_predictions_are_probabilities_and_values_and_need_no_gradient(z: Tensor) -> None:
    made = task("genre", "valence")
    said = made.predict(made(100 * z))
    assert said["genre"].shape == (5, 3)
    torch.testing.assert_close(said["genre"].sum(1), torch.ones(5))
    assert said["valence"].shape == (5,)
    assert said["valence"].abs().max() == 1
    assert not any(value.requires_grad for value in said.values())


def test_target_of_any_name_has_a_head_and_a_weight(z: Tensor) -> None:
    names = ["type", "pop", "train", "items", "forward", "_modules", "mood.valence", "a%b", "%74ype", "Größe", "genre"]
    targets = [Label(name, {"classes": ["a", "b"]}) for name in names]
    made = Task(targets, Linear, UncertaintyWeighting, dim=6)
    out = made(z)
    assert list(out) == names
    y = {name: torch.tensor([0, 1, 0, 1, -1]) for name in names}
    made.loss(out, y)[0].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert len({module_key(name) for name in names}) == len(names)
    again = Task(targets, Linear, UncertaintyWeighting, dim=6)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(z), out)


def test_usual_names_of_targets_are_kept_in_checkpoints() -> None:
    for name in ("genre", "valence", "energy", "danceability", "digit", "Größe", "mood-2"):
        assert module_key(name) == name
