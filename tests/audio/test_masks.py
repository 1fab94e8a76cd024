"""Tests of masked batch norm, on one process and on two processes that share a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from etude.audio.frontend_modules import MaskedBatchNorm
from etude.backbones.cnn import CNN

LENGTHS = torch.tensor([64, 40, 64, 17])


@pytest.mark.parametrize("lengths", [torch.tensor([33, 1, 48, 17]), torch.full((4,), 48)], ids=["padded", "full"])
def test_masked_norm_equals_torch_over_the_valid_frames(lengths: Tensor) -> None:
    torch.manual_seed(0)
    norm = MaskedBatchNorm(5).train()
    for value, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5),
                             (norm.running_mean, -0.5, 0.5), (norm.running_var, 0.5, 2.0)):  # fmt: skip
        nn.init.uniform_(value, low, high)
    reference = nn.BatchNorm2d(5).train()
    reference.load_state_dict(norm.state_dict())
    for scale in (1.0, 3.0):  # twice, for the running statistics
        x = scale * torch.randn(4, 5, 48, 7) + scale
        x, reference_x = x.clone().requires_grad_(), x.clone().requires_grad_()
        result = norm(x, lengths)
        result = torch.cat([clip[:, :length] for clip, length in zip(result, lengths, strict=True)], dim=1)
        expected = reference(
            torch.cat([clip[:, :n] for clip, n in zip(reference_x, lengths, strict=True)], dim=1)[None]
        )[0]
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
        weights = torch.randn_like(result)
        (result * weights).sum().backward()
        (expected * weights).sum().backward()
        torch.testing.assert_close(x.grad, reference_x.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.weight.grad, reference.weight.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(norm.bias.grad, reference.bias.grad, atol=1e-4, rtol=1e-4)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


def clips() -> torch.Tensor:
    return torch.randn(4, 64, 24, generator=torch.Generator().manual_seed(0))


def backward(net: CNN, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Run a backward pass of the mean square of the embeddings, and return these."""
    z = net(x, lengths)
    z.square().mean().backward()
    return z


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = CNN(24, channels=[4, 8], dropout=0.0).train()
    z = backward(net, clips()[rank::2], LENGTHS[rank::2])
    # the mean over two halves is half of their sum
    gradients = {name: p.grad / 2 for name, p in net.named_parameters()}
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    torch.save((z.detach(), gradients, dict(net.named_buffers())), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_batch(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    net = CNN(24, channels=[4, 8], dropout=0.0).train()
    complete = backward(net, clips(), LENGTHS).detach()
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for rank, (z, gradients, buffers) in enumerate(halves):
        torch.testing.assert_close(z, complete[rank::2], atol=1e-5, rtol=1e-4)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-3)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffers[name], buffer)
