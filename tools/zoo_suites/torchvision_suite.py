"""torchvision: every model for classification, segmentation, video and optical flow, and what detectors are built of.

Whole detectors are left out: they end in non-maximum suppression, an operator of torchvision's own that its wheel lacks
beside a CPU build of torch, and their lists of images have no batch.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

from torch import nn

from tools.models import torchvision_models
from tools.zoo_suites.entry import Entry, Inputs, MakeInputs, clip, image, smooth

_DETECTION = ("fasterrcnn", "fcos", "keypointrcnn", "maskrcnn", "retinanet", "ssd", "quantized_")
_CLASSES = 10
_OPTIONS: dict[str, dict[str, Any]] = {
    # Auxiliary classifiers are given in training alone, so the model's result would change its form with the mode; and
    # the initialisation of weights that it asks for draws from scipy for a minute.
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "vit_b_16": {"image_size": 64}, "vit_b_32": {"image_size": 64}, "vit_l_16": {"image_size": 64},
    "vit_l_32": {"image_size": 64}, "vit_h_14": {"image_size": 56},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None}, "deeplabv3_resnet101": {"weights_backbone": None},
    "deeplabv3_resnet50": {"weights_backbone": None}, "fcn_resnet101": {"weights_backbone": None},
    "fcn_resnet50": {"weights_backbone": None}, "lraspp_mobilenet_v3_large": {"weights_backbone": None},
}  # fmt: skip
# Models whose factory fixes their size: the module and the class behind it, and what is small instead.
_CUT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "maxvit_t": ("maxvit", "MaxVit", {"input_size": (64, 64), "partition_size": 2}),
    **dict.fromkeys(("mvit_v1_b", "mvit_v2_s"), ("video.mvit", "MViT", {"spatial_size": (64, 64), "temporal_size": 8})),
}
_INPUTS: dict[str, MakeInputs] = {
    "vit_h_14": image(3, 56, 56),
    "inception_v3": image(3, 96, 96),
    **dict.fromkeys(("mc3_18", "r3d_18", "r2plus1d_18"), clip(3, 8, 56)),
    **dict.fromkeys(("mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"), clip(3, 8, 64)),
    "s3d": clip(3, 16, 224),
}


def entries() -> list[Entry]:
    """Return the suite."""
    models = torchvision_models()
    names = [name for name in models.list_models() if not name.startswith((*_DETECTION, "raft"))]
    named = [Entry(name, partial(_model, name), _INPUTS.get(name, image(3, 64, 64))) for name in names]
    return [*named, *_flow(), *_parts_of_detectors()]


def _model(name: str) -> nn.Module:
    models = torchvision_models()
    options = {"weights": None, "num_classes": _CLASSES, **_OPTIONS.get(name, {})}
    if name not in _CUT:
        model: nn.Module = models.get_model(name, **options)
        return model
    place, kind, sizes = _CUT[name]
    module = importlib.import_module(f"torchvision.models.{place}")
    whole = getattr(module, kind)
    with patch.object(module, kind, lambda **given: whole(**{**given, **sizes})):
        cut: nn.Module = models.get_model(name, **options)
    return cut


def _flow() -> list[Entry]:
    def make(name: str) -> nn.Module:
        torchvision_models()
        model: nn.Module = importlib.import_module("torchvision.models.optical_flow").__dict__[name](weights=None)
        return model

    def pair(batch: int, generator: Any) -> Inputs:
        return smooth((batch, 3, 128, 128), generator), smooth((batch, 3, 128, 128), generator)

    return [Entry(name, partial(make, name), pair) for name in ("raft_small", "raft_large")]


def _parts_of_detectors() -> list[Entry]:
    backbones: dict[str, Callable[[Any], nn.Module]] = {
        "resnet18_fpn": lambda d: d.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None),
        "resnet50_fpn": lambda d: d.backbone_utils.resnet_fpn_backbone(backbone_name="resnet50", weights=None),
        "resnet50_fpn_trained_norms": lambda d: d.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d
        ),
        "mobilenet_v3_large_fpn": lambda d: d.backbone_utils.mobilenet_backbone(
            backbone_name="mobilenet_v3_large", weights=None, fpn=True
        ),
        "ssd300_vgg16_features": lambda d: d.ssd300_vgg16(weights=None, weights_backbone=None).backbone,
        "ssdlite320_features": lambda d: d.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone,
    }
    heads: dict[str, Callable[[Any], nn.Module]] = {
        "retinanet_head": lambda d: d.retinanet.RetinaNetHead(64, 3, 5),
        "fcos_head": lambda d: d.fcos.FCOSHead(64, 3, 5),
        "rpn_head": lambda d: d.rpn.RPNHead(64, 3, conv_depth=2),
    }

    def build(make: Callable[[Any], nn.Module]) -> nn.Module:
        torchvision_models()
        return make(importlib.import_module("torchvision.models.detection"))

    sizes = {"ssd300_vgg16_features": image(3, 300, 300), "ssdlite320_features": image(3, 128, 128)}
    found = [Entry(name, partial(build, make), sizes.get(name, image(3, 64, 64))) for name, make in backbones.items()]
    found += [Entry(name, partial(build, make), _pyramid) for name, make in heads.items()]
    box = Entry("fasterrcnn_box_head", partial(build, _box_head), image(64, 7, 7))
    return [*found, box]


def _pyramid(batch: int, generator: Any) -> Inputs:
    return ([smooth((batch, 64, size, size), generator) for size in (16, 8)],)


def _box_head(detection: Any) -> nn.Module:
    parts = detection.faster_rcnn
    return nn.Sequential(parts.TwoMLPHead(64 * 7 * 7, 64), parts.FastRCNNPredictor(64, 5))
