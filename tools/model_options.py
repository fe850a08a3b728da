"""The arguments of tools that run passes on a model, and what they run: a graph and its pipeline."""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import qatc
from qatc.config import PRESETS, config_of
from qatc.lowering.lower_modules import lowering_pipeline
from qatc.passes import qat_pipeline
from qatc.pipeline import Pipeline
from qatc.prepared import PreparedModel
from qatc.targets import TARGETS, target_of
from qatc.trace import trace
from tools.models import default_shape, images, model_named, randomise

# What the graph is called that passes begin with: those of prepare, and those of lowering.
BEGUN = ("trace", "prepared")


@dataclass(frozen=True)
class Subject:
    """What the passes begin with: the model they are to keep, its graph, what that is called, and an input for it."""

    model: nn.Module
    gm: PreparedModel
    name: str
    pipeline: Pipeline
    x: Tensor

    @property
    def steps(self) -> list[str]:
        """The names of the graph and of all passes, in order."""
        return [self.name, *(step.name for step in self.pipeline)]


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the model, and what it is prepared for."""
    parser.add_argument(
        "model", metavar="MODEL", help="lenet, resnet-digits, a model of torchvision, or package.module:factory"
    )
    parser.add_argument("--lower", action="store_true", help="run the passes of lowering, on the model prepared")
    parser.add_argument("--target", default="onnxruntime", metavar="T", help=f"one of {', '.join(TARGETS)}")
    parser.add_argument("--config", default="w8a8", metavar="C", help=f"a .toml file, or one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--shape", type=_shape, metavar="N,C,H,W", help="the shape of the input (default: that of the model's images)"
    )


def pipeline_of(args: argparse.Namespace) -> Pipeline:
    """Return the passes that the arguments ask for."""
    target, config = target_of(args.target), config_of(args.config)
    return lowering_pipeline(target) if args.lower else qat_pipeline(target, config)


def subject_of(args: argparse.Namespace, *, seeded: bool = False) -> Subject:
    """Return the model in eval mode, traced, or prepared and calibrated for lowering.

    `seeded` gives its BatchNorms statistics as training leaves them, and makes images of the input, not zeros.
    """
    pipeline, model = pipeline_of(args), model_named(args.model).eval()
    shape = args.shape or default_shape(args.model)
    x = images(*shape) if (seeded or args.lower) and len(shape) == 4 else torch.zeros(shape)
    if seeded:
        randomise(model, x)
    if not args.lower:
        return Subject(model, trace(model, (x,)), BEGUN[0], pipeline, x)
    prepared = qatc.prepare(model, (x,), args.target, args.config)
    qatc.calibrate(prepared.eval(), [(x,)], progress=False)
    return Subject(model, prepared, BEGUN[1], pipeline, x)


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write it as 1,3,64,64")
    return sizes
