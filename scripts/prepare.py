"""Make the pack of a collection: `python scripts/prepare.py data=demo`."""

import sys

from etude.data.prepare import main

if __name__ == "__main__":
    sys.exit(main())
