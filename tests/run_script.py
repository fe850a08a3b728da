"""Run a script as Python does, where torchvision's own operators do not load: `run_script.py SCRIPT ARGUMENTS`."""

import runpy
import sys
from pathlib import Path

from tools.models import torchvision_models

if __name__ == "__main__":
    torchvision_models()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
