"""Rebuild metrics.json and report.html of runs: python scripts/report.py outputs/<run> [...]."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("report"))
