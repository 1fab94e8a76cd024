"""Fixtures of all tests, and the limit of one thread for each process."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from tests.browsing import launch_chromium
from tests.skip_summary import pytest_terminal_summary  # noqa: F401  # pytest calls it at the end of a test run

from etude.config.column_tasks import use_column_tasks
from etude.config.compose import conf_dir, register_resolvers
from etude.config.overrides import apply_probe_settings
from etude.system.distributed import experiment_name

torch.set_num_threads(1)
# otherwise numba's first parallel function sets torch to one busy-waiting thread for each core
os.environ["NUMBA_NUM_THREADS"] = "1"
# one cache for each process: two processes that compile into one cache at once write files that crash when loaded
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "numba" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ["NUMBA_CACHE_DIR"] = str(CACHE)  # replaces a value that is inherited from the parent process

COMPILE_LIBROSA = """
import librosa

from etude.audio.descriptors import track_beats
from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma, frames
from etude.data.sources.demo import HOME

audio = decode(min((HOME / "clips" / "metal").iterdir()), 22050)
track_beats(audio, LogMelChroma())
frames(audio, LogMelChroma(tuning=None))
frames(audio, LogMelChroma(chroma="cqt"))
librosa.effects.hpss(audio)
"""

OmegaConf.register_new_resolver("experiment_name", experiment_name, replace=True)  # commands do this at their start
register_resolvers()
# a run sets these values itself
CHOICES = "choices={data: d, feature: f, backbone: b, head: h, task: t, experiment: null, debug: null}"


@pytest.hookimpl(tryfirst=True)  # before xdist appends the name of the group to the name of each test
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that share a fixture of their module in one process, so that the fixture is created once."""
    for item in items:
        definitions = getattr(item, "_fixtureinfo", None)
        scopes = [found[-1].scope for found in definitions.name2fixturedefs.values() if found] if definitions else []
        if "module" in scopes and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def compiled_librosa() -> None:
    """Compile librosa's numba functions, which takes half a minute, once for all processes of pytest-xdist.

    Tests of these functions do not depend on this fixture. Without it, each process compiles them.
    """
    shared = CACHE.with_name("shared")
    shared.mkdir(parents=True, exist_ok=True)
    with FileLock(shared.with_suffix(".lock")):
        if not (shared / "complete").exists():
            environment = os.environ | {"NUMBA_CACHE_DIR": str(shared)}
            subprocess.run([sys.executable, "-c", COMPILE_LIBROSA], env=environment, check=True)
            (shared / "complete").touch()
    shutil.copytree(shared, CACHE, dirs_exist_ok=True)


@pytest.fixture(scope="session", autouse=True)
def parsed_configs() -> Iterator[None]:
    """Parse each YAML file of a config once for each process, which takes a third of the time of a composition."""
    Plugins.instance()  # finds the sources; their modules differ from those that a test can import
    file_source = SourcesRegistry.instance().resolve("file")
    parsed: dict[tuple[str, int, int], bytes] = {}
    load = file_source.load_config

    def load_config(source: Any, config_path: str) -> ConfigResult:
        path = Path(source.path, source._normalize_file_name(config_path))
        if not path.is_file():
            return load(source, config_path)  # raises Hydra's error
        stat = path.stat()
        key = os.path.realpath(path), stat.st_mtime_ns, stat.st_size
        if key not in parsed:
            result = load(source, config_path)
            parsed[key] = pickle.dumps((result.config, result.header))
        config, header = pickle.loads(parsed[key])
        return ConfigResult(source.provider, f"{source.scheme()}://{source.path}", config, header)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_source, "load_config", load_config)
        yield


@pytest.fixture(scope="session")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of packs that the tests of all processes share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_packs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def config(packs: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that composes the config of a run from overrides and resolves it to plain values.

    The overrides are composed once. Each call returns another copy.
    """

    @cache
    def compose_config(*overrides: str) -> dict[str, Any]:
        with use_column_tasks(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("train", overrides=[f"data.packs={packs}", *overrides, CHOICES])
        with pytest.MonkeyPatch.context() as patch:  # without the command of a test that ran Hydra in this process
            patch.setattr(HydraConfig.instance(), "cfg", None)
            composed = apply_probe_settings(composed)
        plain = OmegaConf.to_container(
            OmegaConf.masked_copy(composed, [key for key in composed if key != "sweep"]), resolve=True
        )
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}

    return lambda *overrides: deepcopy(compose_config(*overrides))


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Return the paths of every twentieth clip of the embedded collection, 10 s each."""
    from etude.data.sources.demo import collection

    return [Path(path) for path in collection().table["path"][::20]]


@pytest.fixture(scope="module")  # not for the session, because no other asyncio loop can run while it is open
def browser() -> Iterator[Any]:
    """Yield a Chromium browser, or skip the test if none is installed."""
    with launch_chromium() as chromium:
        yield chromium
