"""Models by name for the developer tools; seeded statistics and images for those that were never trained."""

import difflib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tools.networks import NETWORKS

_SHAPES = dict.fromkeys(NETWORKS, (1, 1, 32, 32))


class UnknownModel(Exception):
    """No model has this name; the message says what was near."""


def default_shape(name: str) -> tuple[int, ...]:
    """Return the shape of the image that the model is shown."""
    return _SHAPES.get(name, (1, 3, 64, 64))


def model_named(name: str) -> nn.Module:
    """Return a model by name: of tools/networks.py, of torchvision, or what `package.module:factory` gives."""
    if name in NETWORKS:
        return NETWORKS[name]()
    if ":" in name:
        return _from_factory(name)
    try:
        models = torchvision_models()
    except ImportError:
        known = []
    else:
        known = models.list_models(module=models)
        if name in known:
            model: nn.Module = models.get_model(name, weights=None)
            return model
    near = difflib.get_close_matches(name, [*NETWORKS, *known], n=3) or [
        *NETWORKS,
        "resnet18",
        "package.module:factory",
    ]
    raise UnknownModel(f"no model {name!r}; the nearest: {', '.join(near)}")


def _from_factory(name: str) -> nn.Module:
    place, _, factory = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        model = getattr(importlib.import_module(place), factory)()
    except (ImportError, AttributeError, TypeError) as error:
        raise UnknownModel(f"{name!r} gives no model: {error}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise UnknownModel(f"{name!r} gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def torchvision_models() -> ModuleType:
    """Return `torchvision.models`, also where torchvision's own operators do not load.

    Its usual wheel is built for CUDA, and beside a CPU build of torch the import fails at the first operator of its
    own. The models that are used here need none, so they are declared without being there.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if not re.search("torchvision::.* does not exist", str(error)):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.models")


def randomise(model: nn.Module, example: Tensor, seed: int = 0) -> nn.Module:
    """Give BatchNorms factors and statistics as training leaves them: near what the data has, not equal to it.

    A positive shift keeps the deep networks tame. With random weights BatchNorm and ReLU amplify every difference from
    layer to layer, so that the rounding to 8 bits alone would leave nothing of the output to compare.
    """
    measure_batch_norms(model, lambda: model.train()(example), torch.Generator().manual_seed(seed))
    return model.eval()


def measure_batch_norms(model: nn.Module, show: Callable[[], object], generator: torch.Generator) -> None:
    """Do so with any model; `show` runs it on an example, its BatchNorms in training mode."""
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    measured = [norm for norm in norms if norm.running_mean is not None]
    momenta = [norm.momentum for norm in measured]
    with torch.no_grad():
        for norm in norms:
            if norm.affine:
                norm.weight.copy_(_uniform(norm.weight, 0.7, 1.3, generator))
                norm.bias.copy_(0.8 + 0.3 * torch.randn(norm.bias.shape, generator=generator))
        for norm in measured:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over what it is shown
        if norms:
            show()
        for norm, momentum in zip(measured, momenta, strict=True):
            norm.momentum = momentum
            norm.running_var.clamp_(min=0.3 * float(norm.running_var.mean()))
            noise = torch.randn(norm.running_mean.shape, generator=generator)
            norm.running_mean += 0.2 * norm.running_var.sqrt() * noise
            norm.running_var *= _uniform(norm.running_var, 0.7, 1.4, generator)


def _uniform(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(like.shape, generator=generator)


def images(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded images [N, C, H, W]: noise over something smooth, about zero mean and unit variance."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn((*shape[:2], 8, 8), generator=generator)
    smooth = nn.functional.interpolate(smooth, shape[2:], mode="bilinear")
    return 0.5 * torch.randn(shape, generator=generator) + 0.85 * smooth / smooth.std()
