"""Tests of the backbone of timm networks, including exclusion of padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.backbones.timm_backbone import Timm
from etude.errors import UserError

SMALL = ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "regnety_002"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def embed(net: Timm, x: Tensor, lengths: list[int]) -> Tensor:
    with torch.no_grad():
        return net(x, torch.tensor(lengths))


@pytest.mark.parametrize("model", SMALL)
def test_embedding_does_not_depend_on_other_clips(model: str) -> None:
    net, lengths = Timm(40, model).eval(), [300, 171, 300, 1, 128, 171, 60]
    x = torch.randn(len(lengths), 310, 40)
    for clip, length in zip(x, lengths, strict=True):
        clip[length:] = 1e3
    batched = embed(net, x, lengths)
    assert batched.shape == (7, net.dim)
    separate = [embed(net, clip[None, :n], [n]) for clip, n in zip(x, lengths, strict=True)]
    torch.testing.assert_close(batched, torch.cat(separate), atol=1e-5, rtol=1e-5)


def test_clips_of_one_length_are_batched() -> None:
    net, shapes = Timm(40).eval(), []
    net.net.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    embed(net, torch.randn(5, 200, 40), [200, 150, 200, 20, 7])
    assert shapes == [(2, 1, 64, 128), (1, 1, 64, 150), (2, 1, 64, 200)]  # short clips are zero-padded
    shapes.clear()
    embed(net, torch.randn(5, 200, 40), [200] * 5)
    assert shapes == [(5, 1, 64, 200)]


@pytest.mark.parametrize("model", SMALL)
def test_weights_of_a_file_equal_the_rgb_network_on_grey_images(model: str, tmp_path: Path) -> None:
    reference = timm.create_model(model, num_classes=7)
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    net = Timm(128, model, weights=str(tmp_path / "model.safetensors"))
    net.initialise()
    x = torch.randn(2, 200, 128)
    reference.reset_classifier(0)
    with torch.no_grad():
        expected = reference.eval()(x.transpose(1, 2)[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(embed(net.eval(), x, [200, 200]), expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_raise(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"the weights do not fit backbone\.model=resnet10t \(Error"):
        Timm(128, weights=str(tmp_path / "model.safetensors")).initialise()


def test_error_without_internet_names_the_required_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    net = Timm(40, weights="imagenet")
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"download model\.safetensors of huggingface\.co/timm/resnet10t\.c3_in1k"):
        net.initialise()


@pytest.mark.parametrize("model", ["resnet", "vit_tiny_patch16_224", "hf_hub:timm/resnet10t.c3_in1k"])
def test_unsupported_model_raises(model: str) -> None:
    with pytest.raises(ValueError, match=r"backbone\.model.*" + model):
        Timm(40, model)


def test_all_parameters_have_gradients_for_unequal_lengths() -> None:
    net = Timm(12, dropout=0.1).train()
    net(torch.randn(3, 200, 12), torch.tensor([200, 3, 150])).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize("model", SMALL)
def test_layers_contain_all_parameters(model: str) -> None:
    net = Timm(40, model)
    listed = [id(weight) for layer in net.layers() for weight in layer.parameters()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(weight) for weight in net.parameters()}
    assert len(net.layers()) > 4
