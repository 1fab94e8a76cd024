"""Write the embeddings of audio files: python scripts/embed.py outputs/<run> music/ --out embeddings.npz."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("embed"))
