"""Tests of views of frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from etude.audio.log_mel import LogMelChroma, frames
from etude.config.instantiate import make
from etude.data.audio_files import ARRAY_FRONT_END
from etude.data.batches import VIEWS, Feature
from etude.errors import UserError

FRONT = LogMelChroma(n_mels=20, n_chroma=24)
TONE = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32)


@pytest.mark.parametrize(("view", "columns"), [("mel", range(20)), ("chroma", range(20, 44)), ("fused", range(44))])
def test_view_selects_columns(view: str, columns: range) -> None:
    feature = Feature(view, front=FRONT)
    complete = frames(TONE, feature.front)
    assert list(range(44))[feature.columns] == list(columns)
    assert feature.bins == len(columns) == complete[:, feature.columns].shape[1]


def test_tone_has_one_pitch_class_and_one_mel_band() -> None:
    """Compute a tone of 440 Hz, which has the pitch class A and no energy in higher bands."""
    feature = Feature("fused")
    middle = frames(TONE, feature.front)[20]
    assert np.argmax(middle[Feature("chroma").columns]) == 9
    assert (middle[Feature("mel").columns][60:] == -80).all()


@pytest.mark.parametrize("sync", ["none", "beat"])
def test_sync_is_passed_to_front_end(sync: str) -> None:
    assert Feature("mel", sync, FRONT).front == LogMelChroma(n_mels=20, n_chroma=24, sync=sync)
    assert FRONT.sync == "none"  # it is not modified


def test_views_share_front_end_unless_sync_differs() -> None:
    assert len({Feature(view, front=FRONT).front for view in VIEWS}) == 1
    assert Feature(sync="beat").front != Feature().front


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "harmony"}, "feature.view must be one of mel, chroma, fused, got 'harmony'"),
        ({"sync": "bar"}, "feature.sync must be none or beat, got 'bar'"),
    ],
)
def test_unknown_view_or_sync_is_refused_by_name(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Feature(**options)


@pytest.mark.parametrize("view", VIEWS)
def test_configs_select_views_of_default_front_end(view: str, config: Callable[..., dict[str, Any]]) -> None:
    assert make(config(f"feature={view}")["feature"]) == Feature(view)


def test_configs_support_beats_and_precomputed_frames(config: Callable[..., dict[str, Any]]) -> None:
    beats = make(config("feature=fused", "feature.sync=beat")["feature"])
    assert beats == Feature("fused", "beat")
    assert beats.front.sync == "beat"
    assert make(config("feature=chroma", "feature/front=patreco")["feature"]) == Feature(
        "chroma", front=ARRAY_FRONT_END
    )


@pytest.mark.parametrize(
    "override", ["feature.view=harmony", "feature.sync=bar", "feature.front.n_mels=0", "feature.front.chroma=cens"]
)
def test_invalid_config_value_gives_error_message(override: str, config: Callable[..., dict[str, Any]]) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=f"{key} must be"):
        make(config("feature=fused", override)["feature"])
