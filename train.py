"""Entry point of all experiments. `python train.py --help` lists the config groups."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("train"))
