"""Lay out a project of Weights & Biases: python scripts/dashboard.py entity=<who> project=etude [show=true]."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("dashboard"))
