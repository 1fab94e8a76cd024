"""Tests of models of the Hugging Face hub: where their files are searched, revisions, licences and checksums."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from etude.audio.checkpoint_fronts import find_model_file
from etude.errors import UserError
from etude.files.journal import file_hash
from etude.files.published import HUB_MODELS

MERT = "m-a-p/MERT-v1-95M"
WEIGHTS = "pytorch_model.bin"
Hub = list[tuple[str, str, str | None]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return a list to which repository, file and revision of each download from the hub are appended."""
    downloads: Hub = []

    def download(model: str, name: str, revision: str | None = None) -> str:
        downloads.append((model, name, revision))
        path = tmp_path / "hub" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.delenv("ETUDE_WEIGHTS", raising=False)
    return downloads


@pytest.mark.parametrize(
    ("model", "notice"),
    [
        (MERT, "downloading 377.6 MB from https://huggingface.co/m-a-p/MERT-v1-95M; licence: CC BY-NC 4.0"),
        ("some/encoder", "downloading unknown size from https://huggingface.co/some/encoder; licence: see its card"),
    ],
)
def test_known_revision_is_downloaded_and_licence_logged(
    model: str, notice: str, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("config.json", "preprocessor_config.json"):
        find_model_file(model, name)
    revision = "12af15fef9d0ac838c3f475bfbbf26d2060dd4f5" if model == MERT else None
    assert hub == [(model, "config.json", revision), (model, "preprocessor_config.json", revision)]
    assert caplog.messages == [f"backbone.model={model}: {notice}"]


def test_earlier_copy_in_the_cache_keeps_its_revision(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(model: str, name: str, revision: str | None = None) -> str | None:
        return str(tmp_path / name) if name == "config.json" and revision is None else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert find_model_file(MERT, "config.json") == tmp_path / "config.json"
    find_model_file(MERT, WEIGHTS)
    assert hub == [(MERT, WEIGHTS, None)]


def test_weights_folder_precedes_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_WEIGHTS", str(tmp_path))
    folder = tmp_path / "MERT-v1-95M"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert find_model_file(MERT, "config.json") == folder / "config.json"
    assert find_model_file(MERT, "model.safetensors") is None
    assert not hub


@pytest.mark.usefixtures("hub")
def test_weights_that_differ_from_the_published_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=rf"{WEIGHTS}: differs from the published {WEIGHTS} of {MERT}; delete it to"):
        find_model_file(MERT, WEIGHTS)
    sha256 = file_hash(tmp_path / "hub" / WEIGHTS)
    monkeypatch.setitem(HUB_MODELS, MERT, replace(HUB_MODELS[MERT], sha256=sha256))
    assert find_model_file(MERT, WEIGHTS) == tmp_path / "hub" / WEIGHTS


@pytest.mark.usefixtures("hub")
def test_error_without_internet_states_address_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str, **__: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(
        UserError, match=rf"download https://huggingface\.co/{MERT} .* into \$ETUDE_WEIGHTS/MERT-v1-95M"
    ):
        find_model_file(MERT, "config.json")
    monkeypatch.setenv("ETUDE_WEIGHTS", str(tmp_path))
    with pytest.raises(
        UserError, match=rf"into {tmp_path}/MERT-v1-95M, or into another folder and set backbone\.model="
    ):
        find_model_file(MERT, "config.json")


def test_unknown_folder_error_lists_known_models() -> None:
    with pytest.raises(UserError, match=rf"backbone\.model=MERT: there is no such folder; .* such as {MERT}, "):
        find_model_file("MERT", "config.json")
