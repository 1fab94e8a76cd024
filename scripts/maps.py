"""Draw maps of the embeddings of runs: python scripts/maps.py outputs/a outputs/b --methods pca,umap."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("maps"))
