"""What was kept of a clip is, byte for byte, what left the frozen layers when the clip was alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from etude.audio.masks import valid
from etude.backbones.base import Backbone
from etude.backbones.cnn import CNN
from etude.embeddings.cache import EmbeddingCache, forward_to_split

LENGTHS = torch.tensor([40, 7, 23])


class Average(Backbone):
    """A network that cannot be cut."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.dim, self.map = 5, torch.nn.Linear(bins, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.map((x * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None])

    def layers(self) -> list[torch.nn.Module]:
        return [self.map]


class Twice(CNN):
    """A network that could be cut, if its embedding were not made into another afterwards."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return 2 * super().forward(x, lengths)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 40, 12)


def test_every_clip_is_run_once_and_comes_back_in_any_batch(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8, 8]).eval()
    ran: list[int] = []
    net.blocks[0].register_forward_hook(lambda _, given, out: ran.append(len(given[0])))
    kept, rows = EmbeddingCache(net, 2, tmp_path), torch.tensor([7, 0, 3])
    for batch in ([0, 1], [2, 0], [1, 2, 0], [0]):
        z = kept.embed(x[batch], LENGTHS[batch], rows[batch])
        ran_so_far = len(ran)
        torch.testing.assert_close(z, net(x[batch], LENGTHS[batch]))
        del ran[ran_so_far:]
    assert ran == [1, 1, 1]
    assert kept.end == sum(
        forward_to_split(net, 2, clip[None, :n])[0].nbytes for clip, n in zip(x, LENGTHS, strict=True)
    )


def test_what_comes_back_is_what_was_computed(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8]).bfloat16().eval()
    kept = EmbeddingCache(net, 1, tmp_path)
    kept.embed(x.bfloat16(), LENGTHS, torch.arange(3))
    for row, (clip, n) in enumerate(zip(x.bfloat16(), LENGTHS, strict=True)):
        values, count = kept._read(row)
        expected, length = forward_to_split(net, 1, clip[None, :n])
        assert values.dtype == torch.bfloat16
        assert torch.equal(values, expected)
        assert count == length == n // 2


def test_the_file_has_no_name(x: Tensor, tmp_path: Path) -> None:
    kept = EmbeddingCache(CNN(12).eval(), 1, tmp_path)
    kept.embed(x, LENGTHS, torch.arange(3))
    assert kept.end > 0
    assert not list(tmp_path.iterdir())


def test_what_learns_gets_its_gradient_and_what_is_frozen_none(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8])
    net.blocks[0].eval()
    kept = EmbeddingCache(net, 1, tmp_path)
    for _ in range(2):  # computed, and read
        net.zero_grad()
        kept.embed(x, LENGTHS, torch.arange(3)).square().sum().backward()
        assert all(p.grad is None for p in net.blocks[0].parameters())
        assert all(p.grad is not None for p in net.blocks[1].parameters())


@pytest.mark.parametrize("kind", [Average, Twice])
def test_a_network_with_a_forward_of_its_own_is_kept_whole(kind: type[Backbone], x: Tensor, tmp_path: Path) -> None:
    net = kind(12).eval()
    assert not net.splittable
    kept = EmbeddingCache(net, net.steps, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(kept.embed(x, LENGTHS, torch.arange(3)), net(x, LENGTHS))
    assert kept.end == 3 * net.dim * 4
