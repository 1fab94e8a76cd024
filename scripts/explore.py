"""Write a page about a collection: python scripts/explore.py data=demo."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("explore"))
