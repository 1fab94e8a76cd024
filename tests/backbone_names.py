"""Names of the options of the config group `backbone`."""

from __future__ import annotations

from etude.config.compose import conf_dir

ALL = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))
WITHOUT_CHECKPOINT = [name for name in ALL if name != "hf"]  # test_hf.py tests hf, which needs the files of an encoder
