"""Show activations, gradients and attributions of a clip: python scripts/inspect.py outputs/<run> --clip <id>."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
OTHER_PATHS = [path for path in sys.path if Path(path or ".").resolve() != FOLDER]

if __name__ == "__main__":
    sys.path[:] = OTHER_PATHS  # otherwise later imports of Python's `inspect` would import this file

    from etude.cli.app import run_command

    sys.exit(run_command("inspect"))
elif __name__ == "inspect":
    # another script in this folder, which is first on its path, imports Python's own module
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec(__name__, OTHER_PATHS)
    assert spec is not None and spec.loader is not None, "Python has no module inspect"
    sys.modules[__name__] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
