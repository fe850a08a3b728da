"""Chooses the models of the timm suite anew, for another version of timm; prints the list, which takes minutes.

    python -m tools.zoo_suites.timm_choice > tools/zoo_suites/timm_models.txt

Of every family the two smallest by their number of parameters, each with the smallest image that it takes.
"""

import sys
import warnings
from typing import Any

import torch
from tqdm import tqdm

from tools.zoo_suites.timm_suite import build, library

_EACH = 2
_LARGEST = 200_000_000  # parameters
# Below 64 the last maps of most networks are a single point. Multiples of 7 windows come behind.
_SIDES = (64, 96, 128, 160, 192, 224, 256, 288, 336, 384, 448)
_HEAD = "# The models of the timm suite: name, side of the image, options; tools/zoo_suites/timm_choice.py wrote it.\n"


def main() -> None:
    """Print the list."""
    warnings.simplefilter("ignore")
    timm = library()
    print(_HEAD, end="")
    for family in tqdm(timm.list_modules(), disable=None):
        lines = chosen(timm.list_models(module=family))
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
        if not lines:
            print(f"{family}: no model runs, or all are too large", file=sys.stderr)


def chosen(names: list[str]) -> list[str]:
    """Return the lines of a family's smallest models; if these are timm's own test models alone, of one more."""
    lines: list[str] = []
    counts: set[int] = set()  # what has as many is the same network, trained otherwise
    for count, name in sorted((parameters(name), name) for name in names):
        enough = len(lines) >= _EACH and (name.startswith("test_") or not all(x.startswith("test_") for x in lines))
        line = None if enough or count in counts or count > _LARGEST else smallest(name)
        if line:
            lines.append(line)
            counts.add(count)
    return lines


def parameters(name: str) -> int:
    """Return how many parameters a model has."""
    try:
        with torch.device("meta"):
            model = build(name)
    except (RuntimeError, NotImplementedError):  # what computes with its weights when it is built
        model = build(name)
    return sum(p.numel() for p in model.parameters())


def smallest(name: str) -> str | None:
    """Return the model's line, with the smallest image that it runs and trains on; None if there is none."""
    for side in _SIDES:
        for options in ({}, {"img_size": side}):
            if runs(name, side, options):
                return " ".join([name, str(side), *(f"{key}={value}" for key, value in options.items())])
    return None


def runs(name: str, side: int, options: dict[str, Any]) -> bool:
    """Say whether the model runs, and its gradients are finite, on two images of that side."""
    torch.manual_seed(0)
    try:
        model = build(name, **options)
        x = torch.randn(2, 3, side, side)
        with torch.no_grad():
            good = bool(model.eval()(x).isfinite().all())
        model.train()(x).sum().backward()
    except Exception:  # whatever a model says of an image that does not suit it
        return False
    return good


if __name__ == "__main__":
    main()
