"""Average runs: python scripts/ensemble.py outputs/a outputs/b --out outputs/both, or the folder of a sweep."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("ensemble"))
