"""Create the pack of a collection: python scripts/prepare.py data=demo."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("prepare"))
