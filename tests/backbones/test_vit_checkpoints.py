"""Tests of the AST with pretrained weights, which equals the network that they were published for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from etude.backbones import vit_checkpoints
from etude.backbones.ast import AST
from etude.errors import UserError
from etude.files.published import AST as PUBLISHED

DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomised(net: Any) -> Any:
    """Return the network in evaluation mode, with weights large enough to influence the output."""
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.2 * torch.randn_like(weight) if weight.ndim != 2 else 0.05 * torch.randn_like(weight)
    return net.eval()


def initialised(bins: int, **settings: Any) -> AST:
    """Return a network with loaded weights in evaluation mode."""
    net = AST(bins, **settings)
    net.initialise()
    return net.eval()


def embed(net: nn.Module, x: Tensor, *lengths: int) -> Tensor:
    with torch.no_grad():
        return net(x, torch.tensor(lengths or [x.shape[1]] * len(x)))


def image_network(folder: Path, model: str = DISTILLED, **settings: Any) -> tuple[Any, Path]:
    """Return an RGB image network of timm, and the file of its weights."""
    net = randomised(timm.create_model(model, **settings))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net, folder / "model.safetensors"


@pytest.mark.parametrize(
    "model", [DISTILLED, "vit_tiny_patch16_224", "vit_little_patch16_reg1_gap_256", "deit3_small_patch16_224"]
)
def test_image_embedding_equals_timm(model: str, tmp_path: Path) -> None:
    """Compare a square spectrogram with a grey image whose rows are bins, in ascending order, and columns frames."""
    reference, path = image_network(tmp_path, model, depth=2, num_classes=7)
    side = reference.patch_embed.img_size[0]
    net = initialised(side, model=model, weights=str(path), depth=2, fstride=16, tstride=16, span=side)
    x = torch.randn(2, side, side)
    with torch.no_grad():
        features = reference.forward_features(x.transpose(1, 2)[:, None].expand(-1, 3, -1, -1))
        expected = reference.forward_head(features, pre_logits=True)
    torch.testing.assert_close(embed(net, x), expected, atol=1e-4, rtol=1e-4)
    assert not net.skips_standardisation


@pytest.mark.parametrize("bins", [12, 128, 140])
def test_positions_of_images_are_interpolated_to_the_grid(bins: int, tmp_path: Path) -> None:
    reference, path = image_network(tmp_path, depth=1)
    ramp = torch.linspace(-1, 1, 14)  # increases with the row of the image, which is frequency
    with torch.no_grad():
        reference.pos_embed[:, 2:] = ramp.repeat_interleave(14)[None, :, None]
    save_file(reference.state_dict(), path)
    net = initialised(bins, model=DISTILLED, weights=str(path), depth=1, span=400)
    table = net.get_parameter("patches.positions.table")
    assert table.shape == (1, 39, max(1, (bins - 16) // 10 + 1), 192)
    torch.testing.assert_close(table, table[:, :1].expand_as(table))
    if bins > 16:
        assert (table[0, 0, 1:, 0] > table[0, 0, :-1, 0]).all()
    torch.testing.assert_close(net.patches.tokens[0, 1], (reference.dist_token + reference.pos_embed[:, 1:2])[0, 0])
    assert embed(net, torch.randn(2, 500, bins), 500, 1).isfinite().all()


@pytest.mark.parametrize(("patch", "bins"), [(16, 8), (32, 40), (16, 16)])
def test_resized_filters_respond_equally_to_resized_patches(patch: int, bins: int, tmp_path: Path) -> None:
    reference, path = image_network(tmp_path, depth=1)
    net = initialised(bins, model=DISTILLED, weights=str(path), depth=1, patch=patch)
    x = torch.randn(3, 1, patch, min(patch, bins))  # frames by bins
    square = nn.functional.interpolate(x, (16, 16), mode="bilinear").transpose(2, 3)
    with torch.no_grad():
        expected = reference.patch_embed.proj(square.expand(-1, 3, -1, -1))
        torch.testing.assert_close(net.patches.filters(x), expected, atol=1e-4, rtol=1e-4)


def test_imagenet_weights_are_those_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, path = image_network(tmp_path, depth=1)
    requested = []
    monkeypatch.setattr(
        vit_checkpoints, "fetch_weights", lambda model: requested.append(model) or reference.state_dict()
    )
    net = initialised(40, model=DISTILLED, weights="imagenet", depth=1)
    same = initialised(40, model=DISTILLED, weights=str(path), depth=1)
    x = torch.randn(1, 90, 40)
    assert torch.equal(embed(net, x), embed(same, x))
    assert requested == [DISTILLED]
    assert not net.skips_standardisation


def test_imagenet_weights_are_first_searched_in_the_weights_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stored = tmp_path / f"{DISTILLED}.safetensors", {"cls_token": torch.randn(1, 1, 4)}
    monkeypatch.setattr(vit_checkpoints, "fetch_weights", lambda model: {"fetched": torch.zeros(1)})
    save_file(stored, file)
    monkeypatch.delenv("ETUDE_WEIGHTS", raising=False)
    assert list(vit_checkpoints.read_weights("imagenet", DISTILLED)) == ["fetched"]
    monkeypatch.setenv("ETUDE_WEIGHTS", str(tmp_path))
    assert torch.equal(vit_checkpoints.read_weights("imagenet", DISTILLED)["cls_token"], stored["cls_token"])
    assert list(vit_checkpoints.read_weights("imagenet", "deit_tiny_patch16_224")) == ["fetched"]  # without a file
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=str(file)):
        vit_checkpoints.read_weights("imagenet", DISTILLED)


def test_error_without_internet_names_the_required_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **settings: Any) -> None:
        raise OSError("no route to host")

    net = AST(40, DISTILLED + ".fb_in1k", "imagenet", depth=1)
    monkeypatch.setattr(timm, "create_model", offline)
    name = rf"{DISTILLED}\.fb_in1k"
    message = (
        rf"download model\.safetensors of huggingface\.co/timm/{name} .* store it as {name}\.safetensors in the "
        r"folder .* ETUDE_WEIGHTS, .* backbone\.weights"
    )
    with pytest.raises(UserError, match=message) as raised:
        net.initialise()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["tiny.nonexistent_tag", "vit_base_patch16_1024_128.audiomae_as2m"])
def test_missing_timm_weights_raise(model: str) -> None:
    with pytest.raises(UserError, match="timm has no weights of vit_"):
        AST(40, model, "imagenet", depth=1).initialise()


@pytest.fixture(scope="module")
def audio_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[nn.Module, Path]]:
    """Return a factory of an AST of transformers with random weights, and its file."""
    transformers = pytest.importorskip("transformers")

    def make(classifier: bool = False, **settings: Any) -> tuple[nn.Module, Path]:
        folder = tmp_path_factory.mktemp("ast")
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 3}
        kind = transformers.ASTForAudioClassification if classifier else transformers.ASTModel
        net = randomised(kind(transformers.ASTConfig(**(sizes | settings))))
        net.save_pretrained(folder)
        return getattr(net, "audio_spectrogram_transformer", net), folder / "model.safetensors"

    return make


@pytest.mark.parametrize(
    ("classifier", "settings", "net_options"),
    [
        (False, {"max_length": 200}, {"span": 200, "depth": 3}),
        (True, {"max_length": 200}, {"span": 200, "depth": 3}),
        (False, {"max_length": 1024, "num_hidden_layers": 12}, {}),  # as published, but tiny
        (False, {"max_length": 170, "frequency_stride": 16, "time_stride": 12, "num_mel_bins": 64},
         {"span": 170, "depth": 3, "fstride": 16, "tstride": 12}),
    ],
)  # fmt: skip
def test_ast_equals_transformers(
    classifier: bool,
    settings: dict[str, Any],
    net_options: dict[str, Any],
    audio_network: Callable[..., tuple[nn.Module, Path]],
) -> None:
    reference, path = audio_network(classifier, **settings)
    bins = settings.get("num_mel_bins", 128)
    net = initialised(bins, model=DISTILLED, weights=str(path), **net_options)
    x = torch.randn(2, settings["max_length"], bins)
    with torch.no_grad():
        expected = reference(x).pooler_output
    torch.testing.assert_close(embed(net, x), expected, atol=1e-4, rtol=1e-4)
    assert net.skips_standardisation
    assert net.required_front_end == "etude.audio.kaldi.ASTFront"


def test_ast_loads_from_torch_file_without_config(
    audio_network: Callable[..., tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    reference, path = audio_network(max_length=200)
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    net = initialised(128, model=DISTILLED, weights=str(tmp_path / "pytorch_model.bin"), span=200, depth=3)
    x = torch.randn(1, 200, 128)
    with torch.no_grad():
        torch.testing.assert_close(embed(net, x), reference(x).pooler_output, atol=1e-4, rtol=1e-4)


def test_ast_loads_with_other_strides_and_fewer_blocks(audio_network: Callable[..., tuple[nn.Module, Path]]) -> None:
    _, path = audio_network(max_length=200)
    net = initialised(128, model=DISTILLED, weights=str(path), depth=2, fstride=16, tstride=16)
    assert net.get_parameter("patches.positions.table").shape == (1, 64, 8, 192)
    assert embed(net, torch.randn(2, 300, 128), 300, 20).isfinite().all()


@pytest.mark.parametrize("stride", [10, 16])
def test_ast_of_its_authors_is_found_by_name(
    stride: int, audio_network: Callable[..., tuple[nn.Module, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = audio_network(max_length=200)
    entry = replace(PUBLISHED["audioset"], file=path.name, options={"model": DISTILLED})
    monkeypatch.setitem(PUBLISHED, "audioset", entry)
    monkeypatch.setenv("ETUDE_WEIGHTS", str(path.parent))
    options: dict[str, Any] = {"model": DISTILLED, "depth": 3, "span": 200, "fstride": stride, "tstride": stride}
    expected = initialised(128, weights=str(path), **options)
    (path.parent / "config.json").write_text('{"frequency_stride": 16}')  # of another network in this folder
    net = initialised(128, weights="audioset", **options)
    x = torch.randn(1, 200, 128)
    assert torch.equal(embed(net, x), embed(expected, x))
    assert net.skips_standardisation and AST(128, weights="audioset", **options).skips_standardisation


def audiomae_network(folder: Path, **settings: Any) -> tuple[Any, Path]:
    """Return AudioMAE as configured on the hub from timm's ViT, with random weights, and its file."""
    net = timm.create_model(
        "vit_base_patch16_224", img_size=(1024, 128), in_chans=1, num_classes=0, depth=2, **settings
    )
    save_file(randomised(net).state_dict(), folder / "model.safetensors")
    return net, folder / "model.safetensors"


@pytest.mark.parametrize(
    ("tag", "pool", "settings"),
    [
        (".audiomae_as2m", None, {}),
        (".audiomae_as2m", "mean", {"global_pool": "avg", "fc_norm": False}),
        (".audiomae_as2m_ft_as20k", None, {"global_pool": "avg"}),
    ],
)
def test_audiomae_equals_timm(tag: str, pool: str | None, settings: dict[str, Any], tmp_path: Path) -> None:
    reference, path = audiomae_network(tmp_path, **settings)
    model = "vit_base_patch16_1024_128" + tag
    net = initialised(128, model=model, weights=str(path), depth=2, pool=pool, fstride=16, tstride=16)
    x = torch.randn(2, 1024, 128)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(x[:, None]))
    torch.testing.assert_close(embed(net, x), expected, atol=1e-5, rtol=1e-5)
    assert net.skips_standardisation


def test_network_loads_without_its_weights_file(
    audio_network: Callable[..., tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    _, path = audio_network(max_length=200)
    net = initialised(128, model=DISTILLED, weights=str(path), depth=3)
    again = AST(128, DISTILLED, weights="/nowhere/model.safetensors", depth=3).eval()
    assert not again.skips_standardisation
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 150, 128)
    assert torch.equal(embed(again, x), embed(net, x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "tiny", "depth": 1}, "the weights do not fit backbone.model=tiny"),
        ({"model": DISTILLED}, "the weights do not fit"),  # the file has only two blocks
        ({"model": "deit_small_distilled_patch16_224", "depth": 1}, "size mismatch"),
    ],
)
def test_weights_of_another_network_raise(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, path = image_network(tmp_path, depth=2)
    with pytest.raises(UserError, match=message):
        initialised(128, weights=str(path), **settings)


def test_fine_tuned_audiomae_differs_from_pretrained(tmp_path: Path) -> None:
    _, path = audiomae_network(tmp_path, global_pool="avg")  # with a norm after the mean
    with pytest.raises(UserError, match="norm"):
        initialised(128, model="vit_base_patch16_1024_128.audiomae_as2m", weights=str(path), depth=2)


def test_file_without_a_transformer_raises(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"the weights do not fit backbone\.model=tiny.*patch_embed"):
        initialised(128, model="tiny", weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match=r"^backbone\.weights must be imagenet, .*nowhere.*there is no such file$"):
        initialised(128, model="tiny", weights=str(tmp_path / "nowhere.pth"))
