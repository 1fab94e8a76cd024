"""Weights that were trained elsewhere: what their own network says of a clip, the AST says with them."""

from __future__ import annotations

from collections.abc import Callable
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

DISTILLED = "deit_tiny_distilled_patch16_224"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(net: Any) -> Any:
    """The same network, judging, with weights that are all of a size that matters."""
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.2 * torch.randn_like(weight) if weight.ndim != 2 else 0.05 * torch.randn_like(weight)
    return net.eval()


def begun(bins: int, **settings: Any) -> AST:
    """A network with its weights read, judging."""
    net = AST(bins, **settings)
    net.initialise()
    return net.eval()


def embed(net: nn.Module, x: Tensor, *lengths: int) -> Tensor:
    with torch.no_grad():
        return net(x, torch.tensor(lengths or [x.shape[1]] * len(x)))


def pictures(folder: Path, model: str = DISTILLED, **settings: Any) -> tuple[Any, Path]:
    """A network of timm for pictures of three colours, and a file of its weights."""
    net = shaken(timm.create_model(model, **settings))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net, folder / "model.safetensors"


@pytest.mark.parametrize(
    "model", [DISTILLED, "vit_tiny_patch16_224", "vit_little_patch16_reg1_gap_256", "deit3_small_patch16_224"]
)
def test_a_picture_is_seen_as_by_timm(model: str, tmp_path: Path) -> None:
    """A square spectrogram, low bins first, is a picture in grey: rows are bins and columns are frames."""
    theirs, path = pictures(tmp_path, model, depth=2, num_classes=7)
    side = theirs.patch_embed.img_size[0]
    ours = begun(side, model=model, weights=str(path), depth=2, fstride=16, tstride=16, span=side)
    x = torch.randn(2, side, side)
    with torch.no_grad():
        features = theirs.forward_features(x.transpose(1, 2)[:, None].expand(-1, 3, -1, -1))
        expected = theirs.forward_head(features, pre_logits=True)
    torch.testing.assert_close(embed(ours, x), expected, atol=1e-4, rtol=1e-4)
    assert not ours.skips_standardisation


@pytest.mark.parametrize("bins", [12, 128, 140])
def test_the_table_of_a_picture_is_stretched_to_the_grid(bins: int, tmp_path: Path) -> None:
    theirs, path = pictures(tmp_path, depth=1)
    ramp = torch.linspace(-1, 1, 14)  # higher and higher with the picture's row, that is with frequency
    with torch.no_grad():
        theirs.pos_embed[:, 2:] = ramp.repeat_interleave(14)[None, :, None]
    save_file(theirs.state_dict(), path)
    ours = begun(bins, model=DISTILLED, weights=str(path), depth=1, span=400)
    table = ours.get_parameter("patches.places.table")
    assert table.shape == (1, 39, max(1, (bins - 16) // 10 + 1), 192)
    torch.testing.assert_close(table, table[:, :1].expand_as(table))
    if bins > 16:
        assert (table[0, 0, 1:, 0] > table[0, 0, :-1, 0]).all()
    torch.testing.assert_close(ours.patches.tokens[0, 1], (theirs.dist_token + theirs.pos_embed[:, 1:2])[0, 0])
    assert embed(ours, torch.randn(2, 500, bins), 500, 1).isfinite().all()


@pytest.mark.parametrize(("patch", "bins"), [(16, 8), (32, 40), (16, 16)])
def test_filters_of_another_size_say_the_same_of_a_stretched_patch(patch: int, bins: int, tmp_path: Path) -> None:
    theirs, path = pictures(tmp_path, depth=1)
    ours = begun(bins, model=DISTILLED, weights=str(path), depth=1, patch=patch)
    x = torch.randn(3, 1, patch, min(patch, bins))  # frames by bins
    square = nn.functional.interpolate(x, (16, 16), mode="bilinear").transpose(2, 3)
    with torch.no_grad():
        expected = theirs.patch_embed.proj(square.expand(-1, 3, -1, -1))
        torch.testing.assert_close(ours.patches.filters(x), expected, atol=1e-4, rtol=1e-4)


def test_imagenet_is_what_timm_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, path = pictures(tmp_path, depth=1)
    asked = []
    monkeypatch.setattr(vit_checkpoints, "fetch_weights", lambda model: asked.append(model) or theirs.state_dict())
    net = begun(40, model=DISTILLED, weights="imagenet", depth=1)
    same = begun(40, model=DISTILLED, weights=str(path), depth=1)
    x = torch.randn(1, 90, 40)
    assert torch.equal(embed(net, x), embed(same, x))
    assert asked == [DISTILLED]
    assert not net.skips_standardisation


def test_imagenet_is_first_looked_for_in_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, known = tmp_path / f"{DISTILLED}.safetensors", {"cls_token": torch.randn(1, 1, 4)}
    monkeypatch.setattr(vit_checkpoints, "fetch_weights", lambda model: {"fetched": torch.zeros(1)})
    save_file(known, file)
    monkeypatch.delenv("ETUDE_WEIGHTS", raising=False)
    assert list(vit_checkpoints.read_weights("imagenet", DISTILLED)) == ["fetched"]
    monkeypatch.setenv("ETUDE_WEIGHTS", str(tmp_path))
    assert torch.equal(vit_checkpoints.read_weights("imagenet", DISTILLED)["cls_token"], known["cls_token"])
    assert list(vit_checkpoints.read_weights("imagenet", "deit_tiny_patch16_224")) == [
        "fetched"
    ]  # of which there is no file
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=str(file)):
        vit_checkpoints.read_weights("imagenet", DISTILLED)


def test_without_a_network_it_says_which_file_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **settings: Any) -> None:
        raise OSError("no route to host")

    net = AST(40, DISTILLED + ".fb_in1k", "imagenet", depth=1)
    monkeypatch.setattr(timm, "create_model", offline)
    name = rf"{DISTILLED}\.fb_in1k"
    said = (
        rf"download model\.safetensors of huggingface\.co/timm/{name} .* store it as {name}\.safetensors in the "
        r"folder .* ETUDE_WEIGHTS, .* backbone\.weights"
    )
    with pytest.raises(UserError, match=said) as raised:
        net.initialise()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model", ["tiny.nobody_made_it", "vit_base_patch16_1024_128.audiomae_as2m"])
def test_weights_that_timm_does_not_have(model: str) -> None:
    with pytest.raises(UserError, match="timm has no weights of vit_"):
        AST(40, model, "imagenet", depth=1).initialise()


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[nn.Module, Path]]:
    """An AST of transformers with random weights, and its file; transformers itself is needed for tests only."""
    transformers = pytest.importorskip("transformers")

    def make(classifier: bool = False, **settings: Any) -> tuple[nn.Module, Path]:
        folder = tmp_path_factory.mktemp("ast")
        sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_hidden_layers": 3}
        kind = transformers.ASTForAudioClassification if classifier else transformers.ASTModel
        net = shaken(kind(transformers.ASTConfig(**(sizes | settings))))
        net.save_pretrained(folder)
        return getattr(net, "audio_spectrogram_transformer", net), folder / "model.safetensors"

    return make


@pytest.mark.parametrize(
    ("classifier", "settings", "ours"),
    [
        (False, {"max_length": 200}, {"span": 200, "depth": 3}),
        (True, {"max_length": 200}, {"span": 200, "depth": 3}),
        (False, {"max_length": 1024, "num_hidden_layers": 12}, {}),  # as it was published, but tiny
        (False, {"max_length": 170, "frequency_stride": 16, "time_stride": 12, "num_mel_bins": 64},
         {"span": 170, "depth": 3, "fstride": 16, "tstride": 12}),
    ],
)  # fmt: skip
def test_an_ast_hears_what_it_heard_in_transformers(
    classifier: bool, settings: dict[str, Any], ours: dict[str, Any], listener: Callable[..., tuple[nn.Module, Path]]
) -> None:
    theirs, path = listener(classifier, **settings)
    bins = settings.get("num_mel_bins", 128)
    net = begun(bins, model=DISTILLED, weights=str(path), **ours)
    x = torch.randn(2, settings["max_length"], bins)
    with torch.no_grad():
        expected = theirs(x).pooler_output
    torch.testing.assert_close(embed(net, x), expected, atol=1e-4, rtol=1e-4)
    assert net.skips_standardisation
    assert net.required_front_end == "etude.audio.kaldi.ASTFront"


def test_an_ast_as_torch_saves_it_and_without_its_config(
    listener: Callable[..., tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    theirs, path = listener(max_length=200)
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    net = begun(128, model=DISTILLED, weights=str(tmp_path / "pytorch_model.bin"), span=200, depth=3)
    x = torch.randn(1, 200, 128)
    with torch.no_grad():
        torch.testing.assert_close(embed(net, x), theirs(x).pooler_output, atol=1e-4, rtol=1e-4)


def test_an_ast_takes_other_steps_and_its_first_blocks(listener: Callable[..., tuple[nn.Module, Path]]) -> None:
    _, path = listener(max_length=200)
    net = begun(128, model=DISTILLED, weights=str(path), depth=2, fstride=16, tstride=16)
    assert net.get_parameter("patches.places.table").shape == (1, 64, 8, 192)
    assert embed(net, torch.randn(2, 300, 128), 300, 20).isfinite().all()


def audiomae(folder: Path, **settings: Any) -> tuple[Any, Path]:
    """AudioMAE as its config on the hub makes it of timm's ViT, with random weights."""
    net = timm.create_model(
        "vit_base_patch16_224", img_size=(1024, 128), in_chans=1, num_classes=0, depth=2, **settings
    )
    save_file(shaken(net).state_dict(), folder / "model.safetensors")
    return net, folder / "model.safetensors"


@pytest.mark.parametrize(
    ("tag", "pool", "settings"),
    [
        (".audiomae_as2m", None, {}),
        (".audiomae_as2m", "mean", {"global_pool": "avg", "fc_norm": False}),
        (".audiomae_as2m_ft_as20k", None, {"global_pool": "avg"}),
    ],
)
def test_an_audiomae_hears_what_it_heard_in_timm(
    tag: str, pool: str | None, settings: dict[str, Any], tmp_path: Path
) -> None:
    theirs, path = audiomae(tmp_path, **settings)
    model = "vit_base_patch16_1024_128" + tag
    net = begun(128, model=model, weights=str(path), depth=2, pool=pool, fstride=16, tstride=16)
    x = torch.randn(2, 1024, 128)
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(x[:, None]))
    torch.testing.assert_close(embed(net, x), expected, atol=1e-5, rtol=1e-5)
    assert net.skips_standardisation


def test_a_network_is_loaded_without_the_file_it_began_from(
    listener: Callable[..., tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    _, path = listener(max_length=200)
    net = begun(128, model=DISTILLED, weights=str(path), depth=3)
    again = AST(128, DISTILLED, weights="/nowhere/model.safetensors", depth=3).eval()
    assert not again.skips_standardisation
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 150, 128)
    assert torch.equal(embed(again, x), embed(net, x))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "tiny", "depth": 1}, "the weights do not fit backbone.model=tiny"),
        ({"model": DISTILLED}, "the weights do not fit"),  # of which only two blocks are there
        ({"model": "deit_small_distilled_patch16_224", "depth": 1}, "size mismatch"),
    ],
)
def test_weights_of_another_network_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    _, path = pictures(tmp_path, depth=2)
    with pytest.raises(UserError, match=said):
        begun(128, weights=str(path), **settings)


def test_an_audiomae_that_was_tuned_is_not_taken_for_one_that_was_not(tmp_path: Path) -> None:
    _, path = audiomae(tmp_path, global_pool="avg")  # whose norm stands behind the mean
    with pytest.raises(UserError, match="norm"):
        begun(128, model="vit_base_patch16_1024_128.audiomae_as2m", weights=str(path), depth=2)


def test_what_holds_no_transformer_is_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"the weights do not fit backbone\.model=tiny.*patch_embed"):
        begun(128, model="tiny", weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="there is no such file of weights"):
        begun(128, model="tiny", weights=str(tmp_path / "nowhere.pth"))
