"""`qatc debug`: where a quantized model loses accuracy, by quantized tensor and by weight."""

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qatc.commands.arrays import read_arrays
from qatc.commands.checkpoint import add_checkpoint, load_checkpoint
from qatc.commands.command import Command
from qatc.debugging import DebugReport, ScaleHistory, debug
from qatc.debugging.onnx_file import file_codes
from qatc.errors import CheckpointError, ConfigError, first_line
from qatc.ir import TensorType
from qatc.lowering.flatten_inputs import input_types
from qatc.lowering.verify import flat, known_inputs
from qatc.lowering.verify_data import Feeds, checked_data
from qatc.prepared import PreparedModel
from qatc.view import measured_json, page_of, read_model
from qatc.whole_file import replacing_all

# Samples at once.
_BATCH = 16
_EPILOG = """\
examples:
  qatc debug model.pt --data x.npz
  qatc debug model.pt --data x.npz --onnx model.onnx -o report.json
  qatc debug model.pt --data x.npz --view page.html                  histograms and figures at the graph's nodes
  qatc debug model.pt --data x.npz --measured dumps/measured.json    for qatc view dumps/ to show

exit codes: 0 done; 2 bad input, nothing written
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--data", type=Path, metavar="NPZ", required=True, help="inputs to run on, an array per input of the model"
    )
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="the lowered file, to compare its codes too")
    parser.add_argument(
        "--history", type=Path, metavar="FILE", help="the scales of a training run: torch.save(history.state_dict())"
    )
    parser.add_argument("--json", action="store_true", help="print JSON of all places instead of a table")
    parser.add_argument("--all", action="store_true", help="print all places, not the worst ten")
    parser.add_argument("--limit", type=int, metavar="N", help="take the first N samples of the data")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also write the JSON to this file")
    parser.add_argument(
        "--view", type=Path, metavar="HTML", help="also write a page of the graph with all of this, as qatc view does"
    )
    parser.add_argument(
        "--measured", type=Path, metavar="FILE",
        help="also write what qatc view shows with a folder of dumps: DUMPS/measured.json",
    )  # fmt: skip


def _run(args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}: at least 1", remedy="leave it out for all samples")
    model = load_checkpoint(args)
    history = None if args.history is None else _history(model, args.history)
    run = flat(model)
    types = input_types(run)
    data = checked_data(types, read_arrays(args.data), known_inputs(run))
    data = {name: array[: args.limit] if _has_batch(types[name]) else array for name, array in data.items()}
    report = debug(run, _batches(data, types), history=history)
    if args.onnx is not None:
        report = report.with_file(str(args.onnx), file_codes(model, args.onnx, data))
    texts = {
        args.output: report.json(),
        args.view: "" if args.view is None else _page(model, report),
        args.measured: measured_json(report.measured()),
    }
    paths = [path for path in texts if path is not None]
    with replacing_all(paths) as files:
        for path, file in zip(paths, files, strict=True):
            file.write(f"{texts[path]}\n".encode(errors="replace"))
    print(report.json() if args.json else report.table(None if args.all else 10))
    return 0


def _page(model: PreparedModel, report: DebugReport) -> str:
    dump = read_model(model)
    return page_of(replace(dump, measured={**dump.measured, **report.measured()}))


def _has_batch(kind: TensorType) -> bool:
    return kind.shape[:1] == (None,)


def _batches(data: Feeds, types: Mapping[str, TensorType]) -> list[dict[str, Tensor]]:
    """Return the samples in order, some at a time, as views; an input without a batch is whole each time."""
    samples = next((len(data[name]) for name, kind in types.items() if _has_batch(kind)), 1)
    return [
        {n: torch.from_numpy(a[start : start + _BATCH] if _has_batch(types[n]) else a) for n, a in data.items()}
        for start in range(0, samples, _BATCH)
    ]


def _history(model: PreparedModel, path: Path) -> ScaleHistory:
    """Return the history that a state_dict holds."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        history = ScaleHistory(model, points=len(state["scales"]))
        history.load_state_dict(state)
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file", where=str(path), remedy="check the path") from error
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, ConfigError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"this is no history of this model's scales: {first_line(error)[:200]}",
            where=str(path),
            remedy="write one with torch.save(history.state_dict(), file)",
        ) from error
    return history


DEBUG = Command("debug", "show where a quantized model loses accuracy", _EPILOG, _add_arguments, _run)
