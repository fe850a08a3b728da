"""`qatc lower`, which is also installed as `qatc-lower`: a trained model to an ONNX file with QDQ nodes."""

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qatc
from qatc.commands import float_model
from qatc.commands.arrays import read_arrays
from qatc.commands.checkpoint import add_trust, load_checkpoint
from qatc.commands.command import Command
from qatc.commands.lowering_options import add_options, options_from
from qatc.commands.placement import add_placement, is_for_another, replaced
from qatc.commands.summary import summary
from qatc.errors import QatcError, VerificationError
from qatc.inspection.options import add_pass_options, printers
from qatc.lowering import Lowered, Verifications, lowered_proto, verify_on
from qatc.lowering.lowered import write_all
from qatc.lowering.verify_data import Array
from qatc.runtimes import RUNTIMES
from qatc.simulator.accumulators import accumulators
from qatc.targets import TARGETS

_EPILOG = """\
example:
  qatc-lower model.pt --target tensorrt -o model.onnx --verify calib.npz --dump-dir dumps/
  qatc-lower model.pt --target qnn -o model.onnx --encodings model.encodings.json
  qatc-lower --list-targets tidl
  qatc-lower model.pt --verify calib.npz --verify-on openvino --verify-on onnxruntime --json > codes.json
  qatc-lower model.pt --weights float --batch 8 --dynamic x:2,3
  qatc-lower model.pt --target tensorrt --replace-placement --calib calib.npz
  qatc-lower model.pt2 --calib calib.npz --target onnxruntime --refine correct_biases
  qatc-lower --model package.module:factory --state-dict state.pt --calib calib.npz

what is trusted: of checkpoints, .pt2, .npz and tensors of --state-dict nothing, none of their code runs (but with
--trust-pickle, which trusts the checkpoint); the module named by --model is run

exit codes: 0 written (and verified); 1 the file does not compute what was simulated; 2 bad input, nothing written
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, nargs="?", help="the checkpoint that qatc.save wrote, or a float model of torch.export.save"
    )
    parser.add_argument(
        "--target", metavar="NAME", help=f"the target (default: that it was prepared for): {', '.join(TARGETS)}"
    )
    parser.add_argument(
        "--list-targets", action=_ListTargets, nargs="?", metavar="NAME",
        help="print the targets, or what the one named does with each operator, and exit",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the ONNX file (default: beside the model)")
    parser.add_argument(
        "--verify", type=Path, metavar="NPZ", help="inputs to compare integer codes on, an array per input of the model"
    )
    parser.add_argument(
        "--encodings", type=Path, metavar="JSON", help="also write scales and offsets in AIMET's format 1.0.0"
    )
    parser.add_argument(
        "--verify-on", action="append", default=[], metavar="NAME",
        help=f"verify on this runtime instead of the target's own; may be given again: {', '.join(RUNTIMES)}",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the verification as JSON, every tensor of it; all else to stderr"
    )
    add_pass_options(parser)
    parser.add_argument("--opset", type=int, metavar="N", help="the ONNX opset (default: the target's)")
    add_trust(parser)
    parser.add_argument("--report", action="store_true", help="print every op: quantized how, or float and why")
    parser.add_argument(
        "--calib", type=Path, metavar="NPZ",
        help="data of the real kind for the ranges of a float model, or of tensors that --replace-placement quantizes",
    )  # fmt: skip
    float_model.add_arguments(parser)
    add_placement(parser)
    add_options(parser)


class _ListTargets(argparse.Action):
    """Print the targets, or the rules of one, and exit: no model is needed."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        try:
            print(qatc.targets() if values is None else qatc.targets().rules(values))
        except QatcError as error:
            parser.exit(2, f"qatc: error: {error}\n")
        parser.exit()


def _run(args: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        check = _lower(args)
    if check is None:
        return 0
    print(check.as_json() if args.json else check)
    return 0 if check.passed else 1


def _lower(args: argparse.Namespace) -> Verifications | None:
    """Write the file; return what its verification found, where there is data for one."""
    from_float = float_model.is_float(args)
    options = options_from(args)
    output: Path = args.output or _beside(args)
    for path in filter(None, (output, args.encodings, args.save)):
        _check_writable(path)
    if not from_float:
        model = load_checkpoint(args)
    data: Mapping[str, Array] | None = None if args.verify is None else read_arrays(args.verify)
    moved = ""
    if from_float:
        made = float_model.from_float(args)
        model = made.model
        data = made.samples if data is None and not args.no_verify else data
    elif args.replace_placement and is_for_another(model, args.target):
        calib = None if args.calib is None else read_arrays(args.calib)
        model, moved = replaced(model, args.target, calib, data, options)
        data = calib if data is None else data
    if data is None and (args.verify_on or args.json):
        raise VerificationError("there is no data to verify on", remedy="give inputs with --verify FILE.npz")
    lowered = lowered_proto(
        model, args.target, options, opset=args.opset, dump_dir=args.dump_dir, observers=printers(args)
    )
    check = None if data is None else verify_on(model, lowered, data, args.verify_on)
    files = lowered.files(output, args.encodings)
    write_all(files)
    if moved:
        print(moved)
    _print_written(lowered, output)
    for path in [path for path in files if path != output]:
        print(f"wrote {path}")
    print(model.report if args.report else "\n".join(summary(model.report)))
    if from_float:
        print(f"outputs: SQNR {made.sqnr:.1f} dB against the float model, on {made.count} samples of the data")
    return check


def _beside(args: argparse.Namespace) -> Path:
    """Return the path beside the model's file; in the current folder, by the factory's name, where there is none."""
    if args.model is not None:
        path: Path = args.model.with_suffix(".onnx")
        return path
    return Path(f"{args.factory.rpartition(':')[2].rpartition('.')[2]}.onnx")


def _print_written(lowered: Lowered, output: Path) -> None:
    for finding in lowered.findings:
        print(finding)
    if lowered.target.lint:
        errors = sum(f.severity == "error" for f in lowered.findings)
        rest = len(lowered.findings) - errors
        print(f"lint: {len(lowered.target.lint)} rules of {lowered.target.name}: {errors} errors, {rest} warnings")
    wide = [row.name for row in accumulators(lowered).overflowing]
    if wide:
        print(
            f"warning: the sums of {len(wide)} layers may not fit int32: {', '.join(wide[:3])}"
            f"{', ...' if len(wide) > 3 else ''}; `qatc accumulators {output}` shows each"
        )
    opset = next(o.version for o in lowered.proto.opset_import if o.domain in ("", "ai.onnx"))
    size = output.stat().st_size
    for name, value in lowered.target.runtime_options.items():
        print(f"runtime option: {name} = {value}")
    print(f"wrote {output}: {len(lowered.proto.graph.node)} nodes, opset {opset}, {size / 1024:.1f} KiB")


def _check_writable(path: Path) -> None:
    """Refuse an output path before minutes are spent on what would go there."""
    folder = path.parent if str(path.parent) else Path()
    is_other = path.exists() and not path.is_file()
    if is_other or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "it is a folder, or no file" if is_other else f"the folder {folder} does not exist or cannot be written"
        raise QatcError(f"the output cannot be written: {why}", where=str(path), remedy="choose another path")


LOWER = Command("lower", "write a trained model as ONNX with QDQ nodes", _EPILOG, _add_arguments, _run)
