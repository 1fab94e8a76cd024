"""A page to try a trained network: python scripts/demo.py outputs/<run>."""

import sys

from etude.demo.command import main

if __name__ == "__main__":
    sys.exit(main())
