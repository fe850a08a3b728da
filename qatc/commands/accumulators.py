"""`qatc accumulators`: how wide the sums of an ONNX file get."""

import argparse
from pathlib import Path

from qatc.commands.arrays import read_arrays
from qatc.commands.command import Command
from qatc.simulator.accumulators import accumulators

_EPILOG = """\
example:
  qatc accumulators model.onnx --data calib.npz

exit codes: 0 every layer fits int32; 1 one may not; 2 bad input
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="an ONNX file with QDQ nodes")
    parser.add_argument("--data", type=Path, metavar="NPZ", help="inputs to observe sums on, an array per input")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(args: argparse.Namespace) -> int:
    found = accumulators(args.model, None if args.data is None else read_arrays(args.data))
    print(found.json() if args.json else found)
    return 1 if found.overflowing else 0


ACCUMULATORS = Command(
    "accumulators", "show how wide the sums of each layer get, at worst and on data", _EPILOG, _add_arguments, _run
)
