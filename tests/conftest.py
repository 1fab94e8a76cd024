"""What several tests share: one thread, the configs, and the pack of the embedded clips, made once per session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.browsing import chromium

from etude.config.compose import conf_dir

torch.set_num_threads(1)
os.environ["NUMBA_NUM_THREADS"] = "1"  # or its first parallel function sets torch to a thread for each core, which spin
# of its own for each process: what two of them compile into one cache at a time crashes the next that loads it
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "numba" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ["NUMBA_CACHE_DIR"] = str(CACHE)  # whatever the process that started this one has

# filled in a real run
CHOICES = "choices={data: d, feature: f, backbone: b, head: h, task: t, experiment: null, debug: null}"


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of packs that all tests share."""
    return tmp_path_factory.mktemp("packs")


@pytest.fixture(scope="session")
def config(packs: Path) -> Callable[..., dict[str, Any]]:
    """Compose the config of a run from overrides, resolved to plain values."""

    def make(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("train", overrides=[f"data.packs={packs}", *overrides, CHOICES])
        plain = OmegaConf.to_container(
            OmegaConf.masked_copy(composed, [key for key in composed if key != "sweep"]), resolve=True
        )
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}

    return make


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Every twentieth of the embedded clips, of 10 s."""
    from etude.data.sources.demo import collection

    return [Path(path) for path in collection().table["path"][::20]]


@pytest.fixture(scope="module")  # no longer: while it is open, nothing else may run a loop of asyncio
def browser() -> Iterator[Any]:
    """A real browser; a test that needs one is skipped where there is none."""
    with chromium() as started:
        yield started
