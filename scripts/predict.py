"""Predict audio files with a trained network: python scripts/predict.py outputs/<run> song.mp3 folder/ list.csv."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("predict"))
