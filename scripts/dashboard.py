"""Lay out a project of Weights & Biases: python scripts/dashboard.py entity=<who> project=etude [show=true]."""

import sys

from etude.dashboard import main

if __name__ == "__main__":
    sys.exit(main())
