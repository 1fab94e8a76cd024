"""Look inside a trained network with one clip: python scripts/inspect.py outputs/<run> clip=<id>."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OTHERS = [place for place in sys.path if Path(place or ".").resolve() != HERE]

if __name__ == "__main__":
    sys.path[:] = OTHERS  # or whatever is imported from here on would take this file for Python's `inspect`

    from etude.__main__ import command

    sys.exit(command("inspect"))
elif __name__ == "inspect":
    # a script beside this one, in whose path this folder is the first, wants Python's own module
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    spec = PathFinder.find_spec(__name__, OTHERS)
    assert spec is not None and spec.loader is not None, "Python has an inspect"
    sys.modules[__name__] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
