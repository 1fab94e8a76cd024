"""List or clear the stored embeddings: python scripts/cache.py clear --older-than 30."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("cache"))
