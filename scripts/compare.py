"""Compare runs in tables: python scripts/compare.py outputs/a outputs/b, or the folder of a sweep."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare"))
