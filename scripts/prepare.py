"""Create the pack of a collection: python scripts/prepare.py data=demo."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("prepare"))
