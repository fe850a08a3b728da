"""The way of `qatc lower` from a float model: read it, quantize it with ranges from data, compare it with itself."""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import qatc
from qatc import ir
from qatc.commands.arrays import read_arrays
from qatc.commands.calibration import Calibration
from qatc.commands.factory import made_by, with_weights
from qatc.config import LayerConfig, QConfig, config_of
from qatc.errors import ConfigError, first_line
from qatc.exported import ExportedModel, is_exported, load_exported
from qatc.lowering.verify_data import Array
from qatc.nested import tensors
from qatc.prepared import PreparedModel, remember
from qatc.ptq.quantize import REFINEMENTS, quantize
from qatc.tracing.frames import place_of

# So many samples verify the file and compare it with the float model where no others are named.
SAMPLES = 64
_ONLY_FLOAT = ("factory", "state_dict", "batch_size", "config", "bits", "refine", "save", "no_verify")


@dataclass(frozen=True)
class Quantized:
    """A model quantized from a float one: the samples to verify it on, and how near to the float one it is.

    `sqnr` is that of its outputs against the float model's on the first `count` samples, in dB.
    """

    model: PreparedModel
    samples: Mapping[str, Array]
    sqnr: float
    count: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that a float model takes."""
    group = parser.add_argument_group("from a float model (a .pt2 file, or --model)")
    group.add_argument(
        "--model", dest="factory", metavar="PACKAGE.MODULE:FACTORY",
        help="what to call for the model: your own code, which runs; found from the current folder too",
    )  # fmt: skip
    group.add_argument(
        "--state-dict", type=Path, metavar="FILE", help="its weights, of torch.save (tensors alone) or .safetensors"
    )
    group.add_argument("--batch-size", type=int, metavar="N", help="samples at once (default: 32, or the export's)")
    group.add_argument("--config", metavar="NAME|TOML", help="a preset, or a file (default: w8a8)")
    group.add_argument(
        "--bits", metavar="W[,A]", help="bits of weights (2 to 8), and of activations (2 to 8, or 16; default: 8)"
    )
    group.add_argument(
        "--refine", action="append", default=[], choices=REFINEMENTS,
        help="what to do beside calibration, may be repeated: what the functions of these names in qatc do",
    )  # fmt: skip
    group.add_argument("--save", type=Path, metavar="FILE", help="keep the quantized model, to train or lower it later")
    group.add_argument("--no-verify", action="store_true", help="do not compare the file with the simulation")


def is_float(args: argparse.Namespace) -> bool:
    """Say whether a float model is given; a `ConfigError` where the options do not fit what is."""
    if (args.factory is None) == (args.model is None):
        raise ConfigError(
            "give one model: a file, or --model" if args.model is None else "two models are given: a file and --model",
            remedy="qatc-lower model.pt, qatc-lower model.pt2 --calib x.npz, or qatc-lower --model pkg:f --calib x.npz",
        )
    if args.factory is None and not args.model.exists():
        return False  # whoever reads it says so
    if args.factory is None and not is_exported(args.model):
        given = [f"--{'model' if n == 'factory' else n.replace('_', '-')}" for n in _ONLY_FLOAT if getattr(args, n)]
        given += ["--calib"] if args.calib is not None and not args.replace_placement else []
        if given:
            raise ConfigError(
                f"{', '.join(given)}: for float models, and {args.model} is none",
                remedy="name a .pt2 file, or give --model; a checkpoint has its ranges and configuration already",
            )
        return False
    if args.state_dict is not None and args.factory is None:
        raise ConfigError(
            "--state-dict: a .pt2 file has its weights", remedy="give --model to load others into a model"
        )
    if args.calib is None:
        raise ConfigError("a float model needs data for its ranges", remedy="give --calib data.npz")
    return True


def from_float(args: argparse.Namespace) -> Quantized:
    """Return the model that the arguments ask for, quantized; its checkpoint is written if they ask for that."""
    config = _config(args.config, args.bits)
    model = _model(args).eval()
    calibration = Calibration.of(read_arrays(args.calib), model, args.batch_size, str(args.calib))
    batches = calibration.batches()
    with _explained(model):
        prepared = quantize(model, batches, args.target, config, refine=args.refine)
        if isinstance(model, ExportedModel):
            ir.set_notes(prepared, (*ir.notes(prepared), *_specialised(model)))
            if model.fixed_batch is not None:
                _fix_batch(prepared, model)
        first = calibration.first(SAMPLES)
        sqnr = _sqnr(model, prepared, first.batches())
    if args.save is not None:
        qatc.save(prepared, args.save)
    return Quantized(prepared, first.file_feeds(), sqnr, first.samples)


def _model(args: argparse.Namespace) -> nn.Module:
    if args.factory is None:
        return load_exported(args.model)
    model = made_by(args.factory)
    return model if args.state_dict is None else with_weights(model, args.state_dict)


def _config(name: str | None, bits: str | None) -> QConfig:
    config = config_of(name or "w8a8")
    if bits is None:
        return config
    parts = bits.split(",")
    numbers = [int(part) for part in parts if part.strip().isdecimal()]
    weight, activation = [*numbers, 8][:2] if numbers else (0, 0)
    if len(numbers) != len(parts) or len(parts) > 2 or not 2 <= weight <= 8 or activation not in (*range(2, 9), 16):
        raise ConfigError(
            f"--bits {bits}: not the widths of weights and activations", remedy="--bits 8, --bits 4,8 or --bits 8,16"
        )
    widths = replace(config.default, weight_bits=weight, activation_bits=activation)
    return replace(config, default=widths if name else _of_least_error(widths))


def _of_least_error(widths: LayerConfig) -> LayerConfig:
    """Return the settings with ranges of the least squared error where there are fewer than 8 bits.

    The whole range costs too much there, and no training makes up for it (docs/ptq.md has figures).
    """
    if widths.weight_bits < 8:
        widths = replace(widths, weight_quantizer="fixed", weight_range="mse")
    if widths.activation_bits < 8:
        widths = replace(widths, activation_quantizer="fixed", activation_range="mse")
    return widths


def _specialised(model: ExportedModel) -> Iterator[str]:
    """Yield a note of each input's sizes that the export did not leave open: the program may hold them as numbers."""
    for name, kind in model.inputs.items():
        sizes = [f"{name}.shape[{dim}]" for dim, size in enumerate(kind.shape) if dim and size is not None]
        if sizes:
            yield f"specialised on {', '.join(sizes)} in the exported program"


def _fix_batch(prepared: PreparedModel, model: ExportedModel) -> None:
    """Let the lowered file have the only batch size that the program is for."""
    made_for = prepared.prepared_for
    assert made_for is not None
    assert made_for.inputs is not None
    inputs = tuple(replace(i, shape=model.inputs[i.name].shape) for i in made_for.inputs)
    remember(prepared, replace(made_for, inputs=inputs))


@torch.no_grad()
def _sqnr(model: nn.Module, prepared: PreparedModel, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Return the SQNR of the prepared model's outputs against the float model's, both in eval mode, in dB."""
    power = error = 0.0
    prepared.eval()
    for batch in tqdm(batches, "compare", disable=None):
        wanted, found = (tensors(m(**batch)) for m in (model, prepared))
        for (_, ours), (_, theirs) in zip(wanted, found, strict=True):
            power += float(ours.double().square().sum())
            error += float((ours.double() - theirs.double()).square().sum())
    return math.inf if error == 0 else 10 * math.log10(power / error) if power else -math.inf


@contextmanager
def _explained(model: nn.Module) -> Iterator[None]:
    """Turn what torch says of data that the model cannot take into an error with a remedy."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise ConfigError(
            f"{type(model).__name__} does not run on a batch of the data: {type(error).__name__}: {first_line(error)}",
            where=place_of(error),
            remedy="check the arrays' shapes and types, and that the model takes batches of any size (--batch-size)",
        ) from error
