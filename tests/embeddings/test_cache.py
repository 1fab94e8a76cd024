"""Tests of the cache, whose values equal the output of the frozen layers for each clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone
from etude.backbones.cnn import CNN
from etude.embeddings.cache import EmbeddingCache, forward_to_split
from etude.embeddings.encoders import SharedEmbeddings
from etude.embeddings.readouts import Readout

LENGTHS = torch.tensor([40, 7, 23])


class Average(Backbone):
    """Network that cannot be split."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.dim, self.map = 5, torch.nn.Linear(bins, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.map((x * valid(lengths, x.shape[1])[..., None]).sum(1) / lengths[:, None])

    def layers(self) -> list[torch.nn.Module]:
        return [self.map]


class Twice(CNN):
    """Network with layers, which cannot be split because it overrides `forward`."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return 2 * super().forward(x, lengths)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 40, 12)


def test_each_clip_is_computed_once_and_reused_in_any_batch(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8, 8]).eval()
    ran: list[int] = []
    net.blocks[0].register_forward_hook(lambda _, inputs, out: ran.append(len(inputs[0])))
    cache, rows = EmbeddingCache(net, 2, tmp_path), torch.tensor([7, 0, 3])
    for batch in ([0, 1], [2, 0], [1, 2, 0], [0]):
        z = cache.embed(x[batch], LENGTHS[batch], rows[batch])
        ran_so_far = len(ran)
        torch.testing.assert_close(z, net(x[batch], LENGTHS[batch]))
        del ran[ran_so_far:]
    assert ran == [1, 1, 1]
    assert cache.end == sum(
        forward_to_split(net, 2, clip[None, :n])[0].nbytes for clip, n in zip(x, LENGTHS, strict=True)
    )


def test_cached_values_equal_the_computed_ones(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8]).bfloat16().eval()
    cache = EmbeddingCache(net, 1, tmp_path)
    cache.embed(x.bfloat16(), LENGTHS, torch.arange(3))
    for row, (clip, n) in enumerate(zip(x.bfloat16(), LENGTHS, strict=True)):
        values, count = cache._read(row)
        expected, length = forward_to_split(net, 1, clip[None, :n])
        assert values.dtype == torch.bfloat16
        assert torch.equal(values, expected)
        assert count == length == n // 2


def test_file_has_no_name(x: Tensor, tmp_path: Path) -> None:
    cache = EmbeddingCache(CNN(12).eval(), 1, tmp_path)
    cache.embed(x, LENGTHS, torch.arange(3))
    assert cache.end > 0
    assert not list(tmp_path.iterdir())


def test_only_trainable_layers_have_gradients(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8])
    net.blocks[0].eval()
    cache = EmbeddingCache(net, 1, tmp_path)
    for _ in range(2):  # computed, then read
        net.zero_grad()
        cache.embed(x, LENGTHS, torch.arange(3)).square().sum().backward()
        assert all(p.grad is None for p in net.blocks[0].parameters())
        assert all(p.grad is not None for p in net.blocks[1].parameters())


@pytest.mark.parametrize("kind", [Average, Twice])
def test_embedding_of_unsplittable_network_is_cached(kind: type[Backbone], x: Tensor, tmp_path: Path) -> None:
    net = kind(12).eval()
    assert not net.splittable
    cache = EmbeddingCache(net, net.steps, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(cache.embed(x, LENGTHS, torch.arange(3)), net(x, LENGTHS))
    assert cache.end == 3 * net.dim * 4


CONTENTS = [f"{row:064x}" for row in range(3)]


def shared(folder: Path, version: int = 1) -> SharedEmbeddings:
    """Return embeddings that runs share, for an encoder of a version."""
    return SharedEmbeddings(folder / "embeddings", CONTENTS, "cnn", lambda device: {"version": version})


def test_second_run_reads_shared_embeddings_without_the_network(x: Tensor, tmp_path: Path) -> None:
    net, rows = CNN(12, channels=[4, 8]).eval(), torch.arange(3)
    first = EmbeddingCache(net, None, tmp_path, shared=shared(tmp_path))
    expected = first.embed(x, LENGTHS, rows)
    torch.testing.assert_close(expected, net(x, LENGTHS))
    first.close()
    second = EmbeddingCache(net, None, tmp_path, shared=shared(tmp_path))
    assert torch.equal(second.embed(torch.full_like(x, torch.nan), LENGTHS, rows), expected)
    second.close()
    other = EmbeddingCache(net, None, tmp_path, shared=shared(tmp_path, version=2))
    assert torch.equal(other.embed(2 * x, LENGTHS, rows)[0], net(2 * x[:1], LENGTHS[:1])[0])  # of another encoder


def test_shared_embeddings_complete_an_interrupted_run(x: Tensor, tmp_path: Path) -> None:
    net = CNN(12, channels=[4, 8]).eval()
    first = EmbeddingCache(net, None, tmp_path, shared=shared(tmp_path))
    first.embed(x[:2], LENGTHS[:2], torch.tensor([0, 2]))
    first.close()
    second = EmbeddingCache(net, None, tmp_path, shared=shared(tmp_path))
    frames = torch.stack([torch.full_like(x[0], torch.nan), x[2], torch.full_like(x[0], torch.nan)])
    z = second.embed(frames, LENGTHS[[0, 2, 1]], torch.tensor([0, 1, 2]))
    assert torch.equal(z[1], net(x[2:, :23], LENGTHS[2:])[0])  # the only one that was missing
    assert z.isfinite().all()


def test_runs_with_other_readouts_share_one_pass_of_the_network(x: Tensor, tmp_path: Path) -> None:
    net, rows, nothing = CNN(12, channels=[4, 8]).eval(), torch.arange(3), torch.full_like(x, torch.nan)

    def embed(readout: Readout, frames: Tensor) -> Tensor:
        settings = {"readout": [readout.layers, readout.pooling]}
        stores = SharedEmbeddings(tmp_path / "embeddings", CONTENTS, "cnn", lambda device: settings, readout.select)
        cache = EmbeddingCache(net, None, tmp_path, readout, stores)
        z = cache.embed(frames, LENGTHS, rows)
        cache.close()
        return z

    readouts = [Readout(net, 12), Readout(net, 12, "all", "mean_std"), Readout(net, 12, "last", "mean_max")]
    for readout, frames in zip([*readouts, readouts[1]], [x, nothing, nothing, nothing], strict=True):
        z = embed(readout, frames)
        for clip, n, values in zip(x, LENGTHS, z, strict=True):
            assert torch.equal(values, readout(net, clip[None, :n], n[None])[0])
    own = SharedEmbeddings(tmp_path / "embeddings", CONTENTS, "cnn", lambda device: {"readout": [[2], "mean_max"]})
    assert sorted(own.read(range(3), torch.device("cpu"))) == [0, 1, 2]  # as `etude embed` reads them


def test_run_continues_if_the_shared_store_cannot_be_written(
    x: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "embeddings").write_text("a file of the user")
    net = CNN(12, channels=[4, 8]).eval()
    cache = EmbeddingCache(net, None, tmp_path, shared=shared(tmp_path))
    for _ in range(2):
        torch.testing.assert_close(cache.embed(x, LENGTHS, torch.arange(3)), net(x, LENGTHS))
    assert sum("embeddings are not shared with other runs" in line for line in caplog.messages) == 1
    assert (tmp_path / "embeddings").read_text() == "a file of the user"
