"""Draw maps of the embeddings of runs: python scripts/latent.py outputs/a outputs/b methods=pca,umap."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("maps"))
