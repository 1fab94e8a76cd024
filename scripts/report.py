"""Rebuild metrics.json and report.html of runs: python scripts/report.py outputs/<run> [...]."""

import sys

from etude.results.report import main

if __name__ == "__main__":
    sys.exit(main())
