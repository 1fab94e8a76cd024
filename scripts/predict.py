"""What a trained network says of sounds: python scripts/predict.py outputs/<run> song.mp3 folder/ list.csv."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("predict"))
