"""Takes docs/view.png, the picture of `qatc view` in the README: ResNet-18 behind fuse-conv-bn-act.

python -m tools.view_picture
"""

import sys
import tempfile
from pathlib import Path

import torch

import qatc
from qatc.view import page_of, read_folder
from tools.browser import chromium, missing
from tools.models import default_shape, model_named

PICTURE = Path(__file__).parents[1] / "docs" / "view.png"


def main() -> int:
    """Run the command; return its exit code."""
    if reason := missing():
        print(f"view_picture: error: {reason}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, chromium(1480, 980) as driver:
        qatc.prepare(model_named("resnet18"), torch.randn(default_shape("resnet18")), dump_dir=folder)
        page = Path(folder, "page.html")
        page.write_text(page_of(read_folder(Path(folder))), encoding="utf-8")
        driver.get(f"{page.as_uri()}#6-fuse-conv-bn-act")
        driver.execute_async_script("select('bn1'); requestAnimationFrame(() => setTimeout(arguments[0]))")
        driver.save_screenshot(str(PICTURE))
    print(f"wrote {PICTURE}: {PICTURE.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
