"""Lay out the panels of a Weights & Biases project: python scripts/dashboard.py entity=<user> project=etude."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("dashboard"))
