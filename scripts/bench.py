"""Speed against peers, and the bars it has to hold: python scripts/bench.py audio models [--check] [--json]."""

import sys

from etude.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
