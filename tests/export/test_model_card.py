"""The card of a run: the numbers of its metrics and record, in the hub's own layout, and text from data as text."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard
from tests.synthetic_runs import CLASSES, predictions, record

from etude.evaluation.measure import compute_metrics
from etude.evaluation.verdict import verdict
from etude.export import model_card
from etude.export.model_card import ExportedFile, card

STRANGE = "a *b* <script>x</script> | `c` [d](javascript:e) $f$\n# g"
ABOUT: dict[str, Any] = {
    "version": "0.1.0", "input": "waveform", "front": "FrontEnd", "rate": 22050, "bins": 128, "dim": 8,
    "settings": {"n_fft": 2048}, "shortest": 1.0,
    "frames_per_second": 43.07, "ragged": True, "least": 1, "window": 30.0, "crop": 100, "crops": 3,
    "targets": {"genre": {"kind": "label", "classes": CLASSES}, "energy": {"kind": "scalar", "low": 0.0, "high": 1.0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    said = record()
    said["data"] |= {
        "title": STRANGE,
        "disjoint": True,
        "labels": "abc",
        "fold": 1,
        "folds": 5,
        "licences": {"CC-BY-4.0": 180},
    }
    said["targets"] = {name: said["targets"][name] for name in ABOUT["targets"]}
    return said


@pytest.fixture(scope="module")
def metrics(told: dict[str, Any]) -> dict[str, Any]:
    return compute_metrics(predictions(), told["targets"])


@pytest.fixture(scope="module")
def text(told: dict[str, Any], metrics: dict[str, Any]) -> str:
    return card(
        ABOUT, [ExportedFile("model.onnx", 1_234_567, "embedding 1e-06")], "clips of the run's data", told, metrics
    )


def test_the_hub_reads_its_head(text: str, metrics: dict[str, Any]) -> None:
    data = ModelCard(text).data
    assert data.license == "cc-by-4.0" and data.library_name == "etude" and data.pipeline_tag == "audio-classification"
    assert data.eval_results is not None
    found = {(one.task_name, one.metric_name): one.metric_value for one in data.eval_results}
    scores = metrics["targets"]["genre"]["splits"]["test"]["scores"]
    assert found["genre", "Macro-F1"] == pytest.approx(scores["macro_f1"]["value"], abs=1e-6)
    assert {name for name, _ in found} == {"genre", "energy"}
    assert {one.dataset_split for one in data.eval_results} == {"test"}


def test_scores_stand_with_intervals_groups_and_baselines(text: str, metrics: dict[str, Any]) -> None:
    test = metrics["targets"]["genre"]["splits"]["test"]
    score, others = test["scores"]["macro_f1"], [one["scores"]["macro_f1"] for one in test["baselines"].values()]
    row = (
        f"| Macro-F1 | {score['value']:.2f} \\[{score['low']:.2f}, {score['high']:.2f}\\] |"
        f" {others[0]['value']:.2f} | {others[1]['value']:.2f} |"
    )
    assert row in text
    assert (
        "| test: 30 clips in 6 groups that no training clip shares | network, 95 % interval | majority class |" in text
    )
    words, _ = verdict(metrics["targets"]["genre"], disjoint=True)
    assert words in text
    assert "- energy is computed from the signal, not rated by listeners." in text
    assert "only 6 groups: they are rough" in text and "- Too small to rank architectures." in text


def test_it_says_what_was_run_and_on_what(text: str) -> None:
    for said in (
        "```sh\ntrain.py backbone=ast task=multitask\n```", "5,512,345 weights, 12 epochs, seed 7",
        "commit `844e9d2c0ffee844e9d2c0ffee844e9d2c0ffee0` with changes", "torch 2.9.1, numpy 2.4.0",
        "frames `9f86d081884c7d659a2feaa0c55ad015`, of the labels `abc`, of the split `60303ae22b998861`; fold 2 of 5",
        "| train | 120 | 20 |", "CC-BY-4.0 (180 clips)", "clips of about 30 s", "cut 3 crops of 100 frames",
        "| `model.onnx` | 1.2 MB | embedding 1e-06 |", "probabilities of `ambient`, `folk`, `jazz`, `rock`",
    ):  # fmt: skip
        assert said in text


def test_text_from_data_is_text(text: str) -> None:
    assert r"a \*b\* &lt;script&gt;x&lt;/script&gt; \| \`c\` \[d\](javascript:e) \$f\$ \# g (`demo`): 180 clips" in text
    assert "<script>" not in text.split("---\n", 2)[2]
    assert model_card.code("a`b|c") == "`` a`b\\|c ``"
    assert model_card.escaped("- no list") == r"\- no list"


def test_of_several_licences_the_head_names_none(told: dict[str, Any]) -> None:
    said = told | {"data": told["data"] | {"licences": {"CC-BY-4.0": 1, "MIT": 2}}}
    head = ModelCard(card(ABOUT, [], "clips", said)).data
    assert (head.license, head.license_name) == ("other", "that-of-the-data")
    assert head.eval_results is None
