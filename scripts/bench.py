"""Compare the speed with other libraries: python scripts/bench.py audio models [--check] [--json]."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("bench"))
