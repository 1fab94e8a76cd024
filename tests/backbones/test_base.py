"""A batch that two processes share is normalised, and learned from, as one."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from etude.backbones.cnn import CNN

LENGTHS = torch.tensor([64, 40, 64, 17])


def clips() -> torch.Tensor:
    return torch.randn(4, 64, 24, generator=torch.Generator().manual_seed(0))


def learn(net: CNN, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Embeddings after a backward pass of their mean square."""
    z = net(x, lengths)
    z.square().mean().backward()
    return z


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = CNN(24, channels=[4, 8], dropout=0.0).train()
    z = learn(net, clips()[rank::2], LENGTHS[rank::2])
    gradients = {name: p.grad / 2 for name, p in net.named_parameters()}  # a mean of two halves is half their sum
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    torch.save((z.detach(), gradients, dict(net.named_buffers())), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one_batch(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    net = CNN(24, channels=[4, 8], dropout=0.0).train()
    whole = learn(net, clips(), LENGTHS).detach()
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for rank, (z, gradients, buffers) in enumerate(halves):
        torch.testing.assert_close(z, whole[rank::2], atol=1e-5, rtol=1e-4)
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-3)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffers[name], buffer)
