"""Entry point of all experiments. `python train.py --help` lists the config groups."""

import sys

from etude.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
