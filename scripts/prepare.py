"""Make the pack of a collection: `python scripts/prepare.py data=demo`."""

import sys

from etude.prepare import main

if __name__ == "__main__":
    sys.exit(main())
