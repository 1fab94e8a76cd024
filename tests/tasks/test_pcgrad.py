"""Tests of PCGrad by its formula, without conflicts, and on several processes."""

from __future__ import annotations

import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from etude.errors import UserError
from etude.tasks.loss_weighting import PCGrad, WeightedSum


class Shared(nn.Module):
    """Parameters that all targets share."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(size))


def projected(*gradients: list[float]) -> tuple[Tensor, dict[str, Any]]:
    """Return the projected gradient for these task gradients, and the stored weights."""
    shared, heads, weighting = (
        Shared(len(gradients[0])),
        nn.Linear(len(gradients), 1, bias=False),
        PCGrad(map(str, range(len(gradients)))),
    )
    each = {
        str(i): torch.tensor(gradient) @ shared.w + (i + 1) * heads.weight[0, i] for i, gradient in enumerate(gradients)
    }
    loss = weighting(each)
    objective = weighting.objective(loss, each, shared, heads)
    assert objective.item() == pytest.approx(loss.item())
    objective.backward()
    # the gradient of each head is unchanged
    assert heads.weight.grad[0].tolist() == pytest.approx(list(range(1, len(gradients) + 1)))
    return shared.w.grad, weighting.weights


def test_conflicting_component_is_projected_out() -> None:
    # (1/2, -1/2), the component along (-1, 1), is removed from (1, 0); (-1, 0), that along (1, 0), from (-1, 1)
    gradient, weights = projected([1.0, 0.0], [-1.0, 1.0])
    torch.testing.assert_close(gradient, torch.tensor([0.5, 1.5]))
    assert {name: weight.item() for name, weight in weights.items()} == pytest.approx({"0": 2.0, "1": 1.5})


def test_gradients_without_conflict_are_summed() -> None:
    gradient, weights = projected([1.0, 2.0, 0.0], [3.0, -1.0, 1.0], [0.0, 0.0, 5.0])
    torch.testing.assert_close(gradient, torch.tensor([4.0, 1.0, 6.0]))
    assert [weight.item() for weight in weights.values()] == [1.0, 1.0, 1.0]


def test_three_conflicting_gradients_equal_the_algorithm_of_the_paper() -> None:
    gradients = torch.tensor([[1.0, 0.5, 0.0], [-1.0, 0.3, 0.7], [0.2, -1.0, -0.4]])
    possible = []
    for orders in product(*(permutations([j for j in range(3) if j != i]) for i in range(3))):
        total = torch.zeros(3)
        for i, order in enumerate(orders):
            g = gradients[i].clone()
            for j in order:
                if g @ gradients[j] < 0:
                    g -= (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
            total += g
        possible.append(total)
    for seed in range(5):
        torch.manual_seed(seed)
        gradient, _ = projected(*gradients.tolist())
        assert min((gradient - expected).abs().max() for expected in possible) < 1e-5


def test_target_without_labels_does_not_change_the_others() -> None:
    gradient, _ = projected([1.0, 0.0], [0.0, 0.0], [-1.0, 1.0])
    torch.testing.assert_close(gradient, torch.tensor([0.5, 1.5]))


def test_single_target_and_frozen_backbone_need_no_projection() -> None:
    shared, heads = Shared(2), Shared(2)
    loss = shared.w.sum() + heads.w.sum()
    assert PCGrad(["a"]).objective(loss, {"a": loss}, shared, heads) is loss
    shared.w.requires_grad_(False)
    assert PCGrad(["a", "b"]).objective(loss, {"a": loss, "b": loss}, shared, heads) is loss


def test_error_without_torchjd_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(UserError, match=r"^weighting=pcgrad needs TorchJD: pip install 'etude\[pcgrad\]'$"):
        projected([1.0, 0.0], [-1.0, 1.0])


class Conflicting(nn.Module):
    """Network with two targets whose gradients conflict. Its output is the surrogate loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.heads, self.weighting = nn.Linear(3, 2), nn.ModuleDict(), PCGrad("ab")
        self.heads.update({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})
        self.heads["b"].load_state_dict({k: -v for k, v in self.heads["a"].state_dict().items()})

    def forward(self, x: Tensor) -> Tensor:
        z = self.backbone(x)
        each = {name: (head(z) - 1).square().mean() for name, head in self.heads.items()}
        return self.weighting.objective(self.weighting(each), each, self.backbone, self.heads)


def clips() -> Tensor:
    """Return a batch of eight inputs (8, 3)."""
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(1))


def worker(rank: int, folder: str) -> None:
    """Accumulate the gradients of two half batches in one of two processes, and save them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    net = DistributedDataParallel(Conflicting())
    half = clips()[rank::2]
    with net.no_sync():
        (net(half[:2]) / 2).backward()
    (net(half[2:]) / 2).backward()
    torch.save([p.grad for p in net.module.parameters()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.full
def test_two_accumulating_processes_equal_one_process(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    net, plain = Conflicting(), Conflicting()
    plain.weighting = WeightedSum("ab")
    for model in (net, plain):
        for half in clips().split(4):
            (model(half) / 2).backward()
    complete = [p.grad for p in net.parameters()]
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), complete)
    assert (complete[0] - plain.backbone.weight.grad).abs().max() > 1e-3  # there was a conflict
