"""Workers do not import the script that started them."""

from __future__ import annotations

import os
import sys
from multiprocessing import spawn
from types import ModuleType

import pytest

from etude.data import workers


def test_worker_is_prepared_without_main(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    script.__file__, script.__spec__ = "script.py", None
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert "init_main_from_path" in spawn.get_preparation_data("worker")
    with workers._without_main():
        assert not {"init_main_from_path", "init_main_from_name"} & set(spawn.get_preparation_data("worker"))
    assert "init_main_from_path" in spawn.get_preparation_data("worker")


def test_function_of_the_script_itself_is_called_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    exec("import os\ndef where(number): return number, os.getpid()", script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert not workers.refers_to_main(os.getpid, 1)
    results = list(workers.run(script.where, list(range(40)), workers=2))
    assert results == [(number, os.getpid()) for number in range(40)]
