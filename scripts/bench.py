"""Compare the speed with other libraries: python scripts/bench.py audio models [--check] [--json]."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("bench"))
