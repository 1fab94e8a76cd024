"""Maps of the embeddings of runs: python scripts/latent.py outputs/a outputs/b methods=pca,umap."""

import sys

from etude.results.maps.command import main

if __name__ == "__main__":
    sys.exit(main())
