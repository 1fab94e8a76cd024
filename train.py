"""The door to every experiment; `python train.py --help` says what there is."""

import sys

from etude.train import main

if __name__ == "__main__":
    sys.exit(main())
