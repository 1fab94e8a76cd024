"""The door to every experiment; `python train.py --help` says what there is."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("train"))
