"""A trained network as files for others: python scripts/export.py outputs/<run> format=onnx,torch,safetensors."""

import sys

from etude.export.command import main

if __name__ == "__main__":
    sys.exit(main())
