"""Rebuild metrics.json and report.html of runs: python scripts/report.py outputs/<run> [...]."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("report"))
