"""Predict audio files with a trained network: python scripts/predict.py outputs/<run> song.mp3 folder/ list.csv."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("predict"))
