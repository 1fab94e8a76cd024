"""Lay out the panels of a Weights & Biases project: python scripts/dashboard.py --entity <user> --project etude."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("dashboard"))
