"""The arguments of `qatc lower` that say how the file is written."""

import argparse
from collections.abc import Mapping, Sequence

from qatc.lowering.options import LoweringOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser; docs/lowering.md explains each."""
    group = parser.add_argument_group("how the file is written")
    group.add_argument(
        "--weights", choices=["int8", "float"], help="codes, or float values that Q makes codes (default: the target's)"
    )
    group.add_argument(
        "--sub-byte", choices=["widen", "native", "qcdq"],
        help="fewer than 8 bits: in 8-bit tensors, in ONNX's 4-bit types, or behind Q and Clip (default: the target's)",
    )  # fmt: skip
    group.add_argument(
        "--float-dtype",
        choices=["fp32", "fp16"],
        default="fp32",
        help="the type of scales and of what is not quantized",
    )
    group.add_argument(
        "--io-dtype", choices=["fp32", "fp16"], default="fp32", help="the type of float inputs and outputs"
    )
    group.add_argument(
        "--batch", type=_batch, metavar="N", help="a number of samples, or 'dynamic', which any number is (the default)"
    )
    group.add_argument(
        "--dynamic", action="append", default=[], type=_dims, metavar="INPUT:DIMS",
        help="dimensions that stay open beside the batch: x:2,3 (may be given again)",
    )  # fmt: skip


def options_from(args: argparse.Namespace) -> LoweringOptions:
    """Return what the arguments ask for."""
    return LoweringOptions(
        args.weights, args.sub_byte, args.float_dtype, args.io_dtype, args.batch, _merged(args.dynamic)
    )


def _batch(text: str) -> int | None:
    return None if text == "dynamic" else int(text)


_batch.__name__ = "number of samples, or 'dynamic'"  # argparse names it in its error


def _dims(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no INPUT:DIMS, as in x:2,3")
    try:
        return name, tuple(int(dim) for dim in dims.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{dims!r} are no dimensions, as in x:2,3") from error


def _merged(given: Sequence[tuple[str, tuple[int, ...]]]) -> Mapping[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, dims in given:
        found[name] = (*found.get(name, ()), *dims)
    return found
