"""Serve a web page to try a trained network: python scripts/demo.py outputs/<run>."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("demo"))
