"""Model cards contain the scores and record of a run, and escape text from the data."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard
from tests.synthetic_runs import CLASSES, predictions, record

from etude.evaluation.measure import compute_metrics
from etude.evaluation.score_summary import summarise_scores
from etude.export import model_card
from etude.export.model_card import ExportedFile, render_card

HOSTILE = "a *b* <script>x</script> | `c` [d](javascript:e) $f$\n# g"
METADATA: dict[str, Any] = {
    "version": "0.1.0", "input": "waveform", "backbone": "AST", "front_end": "LogMelChroma", "rate": 22050,
    "bins": 128, "dim": 8, "front_end_settings": {"n_fft": 2048}, "min_seconds": 1.0,
    "frames_per_second": 43.07, "variable_length": True, "min_length": 1, "window": 30.0,
    "window_samples": 661_500, "step_samples": 330_750, "single_samples": 664_000, "crop": 100, "crops": 3,
    "targets": {"genre": {"kind": "label", "classes": CLASSES}, "energy": {"kind": "scalar", "low": 0.0, "high": 1.0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile_record() -> dict[str, Any]:
    """Record of a run whose data has a title with markup."""
    changed = record()
    changed["data"] |= {
        "title": HOSTILE,
        "disjoint": True,
        "labels": "abc",
        "fold": 1,
        "folds": 5,
        "licences": {"CC-BY-4.0": 180},
    }
    changed["targets"] = {name: changed["targets"][name] for name in METADATA["targets"]}
    return changed


@pytest.fixture(scope="module")
def metrics(hostile_record: dict[str, Any]) -> dict[str, Any]:
    return compute_metrics(predictions(), hostile_record["targets"])


@pytest.fixture(scope="module")
def text(hostile_record: dict[str, Any], metrics: dict[str, Any]) -> str:
    files = [ExportedFile("model.onnx", 1_234_567, "embedding 1e-06")]
    return render_card(METADATA, files, "clips of the run's data", hostile_record, metrics)


def test_hub_reads_metadata(text: str, metrics: dict[str, Any]) -> None:
    data = ModelCard(text).data
    assert data.license == "cc-by-4.0" and data.library_name == "etude" and data.pipeline_tag == "audio-classification"
    assert data.eval_results is not None
    values = {(result.task_name, result.metric_name): result.metric_value for result in data.eval_results}
    scores = metrics["targets"]["genre"]["splits"]["test"]["scores"]
    assert values["genre", "Macro-F1"] == pytest.approx(scores["macro_f1"]["value"], abs=1e-6)
    assert {name for name, _ in values} == {"genre", "energy"}
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_scores_have_intervals_groups_and_baselines(text: str, metrics: dict[str, Any]) -> None:
    test = metrics["targets"]["genre"]["splits"]["test"]
    score = test["scores"]["macro_f1"]
    baselines = [baseline["scores"]["macro_f1"]["value"] for baseline in test["baselines"].values()]
    row = (
        f"| Macro-F1 | {score['value']:.2f} \\[{score['low']:.2f}, {score['high']:.2f}\\] |"
        f" {baselines[0]:.2f} | {baselines[1]:.2f} |"
    )
    assert row in text
    assert (
        "| Test split: 30 clips in 6 groups, none of them in training | Model, 95 % interval | Majority class |" in text
    )
    summary, _ = summarise_scores(metrics["targets"]["genre"], disjoint=True)
    assert summary in text
    assert "- `energy` is computed from the signal, not rated by listeners." in text
    assert "only 6 groups, so they are rough" in text and "- Too small to rank architectures." in text


def test_card_contains_training_procedure_and_data(text: str) -> None:
    for expected in (
        "```sh\ntrain.py backbone=ast task=multitask\n```", "AST, 5,512,345 parameters",
        "**Epochs:** 12", "**Seed:** 7",
        "**Commit:** `844e9d2c0ffee844e9d2c0ffee844e9d2c0ffee0`, with uncommitted changes", "torch 2.9.1, numpy 2.4.0",
        "frames `9f86d081884c7d659a2feaa0c55ad015`, of the labels `abc`, of the split `60303ae22b998861`; fold 2 of 5",
        "| train | 120 | 20 |", "CC-BY-4.0 (180 clips)", "clips of about 30 s", "outputs of 3 crops of 100 frames",
        "| `model.onnx` | 1.2 MB | embedding 1e-06 |", "probabilities of `ambient`, `folk`, `jazz`, `rock`",
    ):  # fmt: skip
        assert expected in text


def test_text_from_data_is_escaped(text: str) -> None:
    assert r"a \*b\* &lt;script&gt;x&lt;/script&gt; \| \`c\` \[d\](javascript:e) \$f\$ \# g (`demo`): 180 clips" in text
    assert "<script>" not in text.split("---\n", 2)[2]
    assert model_card.code("a`b|c") == "`` a`b\\|c ``"
    assert model_card.escaped("- no list") == r"\- no list"


def test_several_licences_give_no_single_licence(hostile_record: dict[str, Any]) -> None:
    changed = hostile_record | {"data": hostile_record["data"] | {"licences": {"CC-BY-4.0": 1, "MIT": 2}}}
    data = ModelCard(render_card(METADATA, [], "clips", changed)).data
    assert (data.license, data.license_name) == ("other", "see-training-data")
    assert data.eval_results is None


def test_card_warns_of_weights_trained_on_test_clips(metrics: dict[str, Any]) -> None:
    changed = record()
    numbers = {"trained": 5, "same_group": 0, "validated": 0, "left_out": 0}
    run = {"name": "source", "data": "demo", "clips": 9, "validation_clips": 0}
    changed["earlier_training"] = {"runs": [run], "unknown": [], "splits": {"test": numbers}}
    text = render_card(METADATA, [], "clips", changed, metrics)
    assert "- The initial weights were trained on 5 of the " in text and "test scores are optimistic" in text
    assert ModelCard(text).data.eval_results is None


def test_card_states_the_clips_of_a_linear_probe() -> None:
    changed = record()
    changed["model"] |= {"epochs": None, "linear_probe": {"genre_*": {"clips": 150, "validation_clips": 30}}}
    text = render_card(METADATA, [], "clips", changed)
    assert "- **Linear probe of genre\\_\\*:** fitted to 150 clips, of which 30 are validation clips\n" in text
    assert "Epochs" not in text and "None" not in text


def test_card_states_that_groups_are_unknown() -> None:
    changed = record()
    changed["data"] |= {"disjoint": True, "groups_known": "none"}
    measured = compute_metrics(predictions().assign(group=None), changed["targets"])
    text = render_card(METADATA, [], "clips", changed, measured)
    assert "30 clips with unknown groups" in text and "resamples of clips, because their groups are unknown" in text
    assert "none of them in training" not in text and "| train | 120 | unknown |" in text
    assert "training and test clips may share artists" in text
