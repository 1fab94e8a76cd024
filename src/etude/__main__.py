"""Command `etude`, as `python -m etude`."""

from __future__ import annotations

import sys

from etude.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
