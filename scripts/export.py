"""Export a trained network for other programs: python scripts/export.py outputs/<run> format=onnx,torch,safetensors."""

import sys

from etude.__main__ import command

if __name__ == "__main__":
    sys.exit(command("export"))
