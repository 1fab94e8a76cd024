"""Look at a collection before training on it: `python scripts/explore.py data=demo`."""

import sys

from etude.explore import main

if __name__ == "__main__":
    sys.exit(main())
