"""Tests of linear probes as heads, and of the settings that they require."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from etude.config.compose import current_config, open_hydra
from etude.config.overrides import LINEAR_PROBE, apply_probe_settings
from etude.errors import UserError
from etude.evaluation.linear_models import describe_end, weakness
from etude.reports.run_report import probe_section
from etude.tasks.heads import MLP, Linear
from etude.tasks.targets import Label, Scalar
from etude.training.linear_probe import fit_probe, linear_layer
from etude.training.optimiser import LinearProbe, log_fit

N, D = 60, 5


@pytest.fixture
def z() -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, (N, D)).astype(np.float32)


def fit(probe: LinearProbe, target: Label | Scalar, z: np.ndarray, y: torch.Tensor, joined: np.ndarray | None = None):
    """Return the fit to clips without groups."""
    mask = np.zeros(len(z), bool) if joined is None else joined
    return fit_probe(probe, target, z, y, torch.arange(len(z)) * 2, mask, [None] * len(z))


def test_missing_labels_and_classes_without_clips_are_left_out(z: np.ndarray) -> None:
    target = Label("genre", {"classes": ["folk", "jazz", "pop", "rock"]})
    y = torch.tensor((z[:, 0] > 3) * 3)  # folk and rock
    y[::7] = -1
    probe = LinearProbe(C=[0.1], class_weights=[None])
    fitted = fit(probe, target, z, y)
    predicted = target.predict(torch.tensor(z) @ fitted.weight.T + fitted.bias).numpy()
    known = y.numpy() >= 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8)).fit(z[known], y[known])
    np.testing.assert_allclose(predicted[:, [0, 3]], model.predict_proba(z), atol=1e-4)
    assert predicted[:, [1, 2]].max() < 1e-8
    assert fitted.record["clips"] == known.sum() and fitted.record["at_end"] is None


@pytest.mark.parametrize("kind", ["label", "scalar"])
def test_nearly_constant_values_do_not_change_the_outputs_of_other_clips(kind: str, z: np.ndarray) -> None:
    """Bands above the bandwidth of the training clips are nearly constant, and can have any value in other clips."""
    is_label = kind == "label"
    target = Label("genre", {"classes": ["folk", "rock"]}) if is_label else Scalar("tempo", {"low": 0.0, "high": 10.0})
    y = torch.tensor((z[:, 0] > 3).astype(int) if is_label else z[:, 0])
    band = -1.2 + 4e-4 * np.random.default_rng(1).normal(size=(N, 4)) + 1e-4 * z[:, :1]
    sparse = np.zeros((N, 1))  # zero for most clips, but no constant
    sparse[y.numpy() > y.double().mean().item()] = 1e-3
    alone = fit(LinearProbe(), target, np.hstack([z, sparse]), y)
    fitted = fit(LinearProbe(), target, np.hstack([z, sparse, band]), y)
    assert alone.weight[:, D].abs().max() > 1e-3
    torch.testing.assert_close(fitted.weight[:, : D + 1], alone.weight, atol=1e-5, rtol=1e-4)
    assert fitted.weight[:, D + 1 :].abs().max() < 1e-6
    torch.testing.assert_close(fitted.bias, alone.bias, atol=1e-5, rtol=1e-4)


def test_scalar_outputs_are_positions_in_the_range(z: np.ndarray) -> None:
    target = Scalar("tempo", {"low": 40.0, "high": 240.0})
    y = torch.tensor(120 + 10 * z[:, 0] + z[:, 1])
    y[3] = torch.nan
    joined = np.arange(N) >= 50
    fitted = fit(LinearProbe(alpha=[1.0, 10.0]), target, z, y, joined)
    known = ~y.isnan().numpy()
    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(z[known], y[known])
    predicted = target.predict(torch.tensor(z) @ fitted.weight.T + fitted.bias)
    np.testing.assert_allclose(predicted, model.predict(z), atol=1e-3)
    assert fitted.rows.tolist() == [2 * row for row in range(50, 60)]
    assert fitted.record["at_end"] == "weakest" and fitted.record["validation_clips"] == 10
    assert describe_end(fitted.record).endswith("; add values, as in 'optim.alpha=[1,0.1,0.01]'")
    errors = target.predict(fitted.out).numpy() - y[joined].numpy()
    assert np.abs(errors).max() < 5 and not np.allclose(target.predict(fitted.out), predicted[joined], atol=1e-3)


def test_equal_true_values_give_a_constant(z: np.ndarray) -> None:
    label, scalar = Label("genre", {"classes": ["folk", "jazz"]}), Scalar("energy", {"low": 0.0, "high": 1.0})
    joined = np.arange(N) >= 50
    fitted = fit(LinearProbe(), label, z, torch.ones(N, dtype=torch.int64), joined)
    assert label.predict(fitted.bias[None]).argmax() == 1 and label.predict(fitted.out).argmax(1).tolist() == [1] * 10
    fitted = fit(LinearProbe(), scalar, z, torch.full((N,), 0.25), joined)
    assert scalar.predict(fitted.bias[None]).item() == pytest.approx(0.25)
    np.testing.assert_allclose(scalar.predict(fitted.out), 0.25)


def test_clips_without_inner_folds_cannot_have_out_of_fold_predictions() -> None:
    target = Label("genre", {"classes": ["folk", "jazz"]})
    z, y = np.eye(2, dtype=np.float32), torch.tensor([0, 1])
    with pytest.raises(UserError, match=r"^optim\.join_validation: the 2 clips with a genre are too few"):
        fit(LinearProbe(), target, z, y, np.array([False, True]))
    assert fit(LinearProbe(), target, z, y).weight.shape == (2, 2)


def test_joined_clips_are_not_predicted_from_clips_of_their_groups() -> None:
    rng = np.random.default_rng(0)
    target, y = Label("genre", {"classes": ["folk", "jazz"]}), torch.tensor([0, 1] * 20)
    artist = np.repeat([0, 1], 20)
    cue = np.where(artist == 0, 1, -1) * (2 * y.numpy() - 1)  # of the class, which differs between the artists
    z = (cue[:, None] + 0.1 * rng.normal(size=(40, 2))).astype(np.float32)
    fitted = fit_probe(LinearProbe(), target, z, y, torch.arange(40), artist == 1, artist.tolist())
    assert fitted.record["groups"] == 2
    assert (fitted.out.argmax(1) != y[20:]).all()  # as the fit to the other artist predicts
    one_class = torch.tensor(artist)
    with pytest.raises(UserError, match=r"no inner folds keep the 2 groups .* set optim\.join_validation=false"):
        fit_probe(LinearProbe(), target, z, one_class, torch.arange(40), artist == 1, artist.tolist())
    shared = np.arange(40) % 4 == 0  # validation clips whose artists also have training clips, as the user allowed
    assert (
        fit_probe(LinearProbe(), target, z, one_class, torch.arange(40), shared, artist.tolist()).out.isfinite().all()
    )


def test_probe_that_may_predict_nothing_is_warned_about(z: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    target = Label("genre", {"classes": ["folk", "jazz", "pop"]})
    y, rng = torch.tensor([0, 1, 2] * 20), np.random.default_rng(1)

    def warning(clips: np.ndarray, y: torch.Tensor, groups: list) -> str | None:
        fitted = fit_probe(LinearProbe(), target, clips, y, torch.arange(len(y)), np.zeros(len(y), bool), groups)
        caplog.clear()
        log_fit("genre", fitted.record)
        text = weakness("genre", fitted.record)
        assert text is None or text in caplog.text
        section = probe_section("genre", fitted.record)
        assert text is None or section["warnings"][0] == f"{text[0].upper()}{text[1:]}."
        return text

    groups = [f"artist {i % 12}" for i in range(N)]
    learnable = z + 9 * np.eye(3, D)[y].astype(np.float32)
    assert warning(learnable, y, groups) is None
    assert warning(learnable, y, [None] * N) is None
    text = warning(rng.normal(size=(N, D)).astype(np.float32), y, groups)
    assert text == (
        "no penalty predicts the clips of the inner folds better than a constant does, so the probe may predict nearly "
        "the same for all clips; fit to clips of more groups"
    )
    artists = [f"artist {i % 3}" for i in range(9)]  # each class has one artist, so no inner fold can score it
    assert "all penalties have the same inner score" in str(warning(learnable[:9], y[:9], artists))
    fitted = fit_probe(LinearProbe(), target, learnable[:9], y[:9], torch.arange(9), np.zeros(9, bool), artists)
    assert fitted.record["penalty"] == {"C": LinearProbe().C[5]} and fitted.record["at_end"] is None
    predicted = target.predict(torch.tensor(learnable[:9]) @ fitted.weight.T + fitted.bias)
    assert predicted.argmax(1).tolist() == y[:9].tolist()
    assert "no inner folds keep the 2 groups" in str(warning(learnable, y, ["a", *["b"] * (N - 1)]))
    assert "the 60 clips have the same genre" in str(warning(z, torch.ones(N, dtype=torch.int64), groups))
    assert "the 2 clips are too few for inner folds" in str(warning(z[:2], y[:2], groups[:2]))


@pytest.mark.parametrize("head", [MLP(D, 2), Linear(D, 2, norm=True)])
def test_heads_that_are_not_linear_are_refused(head: torch.nn.Module) -> None:
    with pytest.raises(UserError, match=r"use head=linear and head\.norm=false"):
        linear_layer(head)


@pytest.mark.parametrize(
    "values",
    [
        {"C": []},
        {"C": [0.0]},
        {"alpha": "10"},
        {"class_weights": ["even"]},
        {"class_weights": []},
        {"folds": 1},
        {"class_weights": [["balanced"]]},
        {"class_weights": None},
        {"folds": None},
        {"folds": 2.5},
        {"join_validation": "no"},
    ],
)
def test_invalid_grids_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match=r"^optim\.(C|alpha|class_weights|folds|join_validation) must be"):
        LinearProbe(**values)


def applied(*overrides: str) -> dict:
    """Return the config of overrides with the settings of linear probes, and with its missing and resolved values."""
    with open_hydra() as composer:
        composed = composer.compose(list(overrides))
    with current_config(composed):
        return OmegaConf.to_container(apply_probe_settings(composed))  # type: ignore[return-value]


def test_settings_of_experiments_and_backbones_are_replaced() -> None:
    config = applied("experiment=small", "optim=linear_probe", "callbacks=best_epoch")
    assert config["optim"]["_target_"] == LINEAR_PROBE and "lr" not in config["optim"]
    assert config["trainer"]["max_epochs"] == 1 and config["head"]["norm"] is False
    assert config["callbacks"]["early_stopping"] is None and config["data"]["crop"] is None
    assert applied("optim=linear_probe")["transfer"]["train"] == "probe"
    assert not applied()["transfer"]
    assert not applied("optim=linear_probe", "augment=none")["augment"]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("augment=mixup", "is fitted to clips without augmentation"),
        ("data.crop=3", "is fitted to complete clips"),
        ("transfer=full", "needs a frozen backbone, as with transfer=probe"),
        ("head=mlp", "has linear heads"),
        ("head.norm=true", "has linear heads"),
        ("weighting=uncertainty", "fits each target alone"),
        ("trainer.max_epochs=5", "has no epochs"),
        ("readout.combine=weighted", "has no learned weights of layers"),
        ("compile=true", "runs the backbone only once for each clip"),
        ("callbacks=ema", "has no weights to average"),
        ("task.targets.genre.smoothing=0.1", "is fitted to the true classes"),
        ("debug=overfit", "has no steps"),
        ("trainer=fsdp", "cannot be sharded; use trainer=ddp"),
    ],
)
def test_other_settings_in_the_command_are_refused(override: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        applied("optim=linear_probe", override)
    (message,) = str(error.value).splitlines()
    assert reason in message and message.startswith((override, "trainer.strategy"))
