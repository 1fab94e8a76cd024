"""Export a trained network for other programs: python scripts/export.py outputs/<run> --format onnx,torch."""

import sys

from etude.cli.app import run_command

if __name__ == "__main__":
    sys.exit(run_command("export"))
