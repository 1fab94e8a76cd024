"""Write a page about a collection: python scripts/explore.py data=demo."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("explore"))
