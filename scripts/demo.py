"""Serve a web page to try a trained network: python scripts/demo.py outputs/<run>."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("demo"))
