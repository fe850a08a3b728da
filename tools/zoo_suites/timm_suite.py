"""timm: the smallest models of every family (its modules), as tools/zoo_suites/timm_models.txt lists them."""

import importlib
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from tools.models import torchvision_models
from tools.zoo_suites.entry import Entry, image

LIST = Path(__file__).with_name("timm_models.txt")
_CLASSES = 10


def entries() -> list[Entry]:
    """Return the suite."""
    lines = [line.split() for line in LIST.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return [
        Entry(name, partial(build, name, **_options(options)), image(3, int(side), int(side)))
        for name, side, *options in lines
    ]


def _options(texts: list[str]) -> dict[str, int]:
    return {key: int(value) for key, _, value in (text.partition("=") for text in texts)}


def build(name: str, **options: Any) -> nn.Module:
    """Return a model of timm by name, with new weights."""
    model: nn.Module = library().create_model(name, pretrained=False, num_classes=_CLASSES, **options)
    return model


def library() -> ModuleType:
    """Return timm, which imports torchvision where that is installed."""
    torchvision_models()
    return importlib.import_module("timm")
