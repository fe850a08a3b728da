"""`qatc.lower`: one call from a trained model to a checked ONNX file."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import fx, nn

import qatc
from qatc.config import QConfig
from qatc.errors import CalibrationError, LoweringError, QatcError
from qatc.inspection import dumps_of
from qatc.lowering.emit import emitted
from qatc.lowering.encodings import encodings, widths
from qatc.lowering.finish import LEAST_WRITTEN, finished
from qatc.lowering.float16 import to_float16
from qatc.lowering.lower_modules import lowering_pipeline
from qatc.lowering.options import DEFAULT, LoweringOptions
from qatc.lowering.placement_changes import placement_changes, table
from qatc.lowering.replace_placement import placed_for
from qatc.masks import masks
from qatc.pipeline import Observer
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from qatc.targets import Target, target_of
from qatc.targets.lint import Finding, lint
from qatc.whole_file import replacing_all


@dataclass(frozen=True)
class Lowered:
    """A lowered model: the ONNX content and what the target's linter found (no errors, or it would not exist)."""

    proto: onnx.ModelProto
    target: Target
    findings: tuple[Finding, ...]
    widths: Mapping[str, int]
    """The bits of every quantized tensor, by the name in front of its nodes' operators."""
    options: LoweringOptions = DEFAULT

    def files(self, path: Path, encodings_path: Path | None = None) -> dict[Path, bytes]:
        """Return what is to be written for a file at `path`: itself, the target's runtime options, encodings if asked.

        The options stand beside the file, where the target has a suffix for that; both are JSON.
        """
        found = {path: self.proto.SerializeToString()}
        if self.target.options_suffix:
            found[path.with_suffix(self.target.options_suffix)] = _json(dict(self.target.runtime_options))
        if encodings_path is not None:
            if encodings_path in found:
                raise LoweringError("two files would have this path", where=str(encodings_path), remedy="name another")
            found[encodings_path] = _json(encodings(self.proto, self.widths))
        return found


def lower(
    model: nn.Module,
    path: str | Path,
    target: str | Target | None = None,
    options: LoweringOptions = DEFAULT,
    *,
    opset: int | None = None,
    dump_dir: str | Path | None = None,
    encodings: str | Path | None = None,
    observers: Iterable[Observer] = (),
) -> Lowered:
    """Write the prepared, calibrated model as an ONNX file with QDQ nodes; the file is written whole or not at all.

    Targets whose runtime needs options have them written beside it (`options_suffix`).

    Args:
        model: what `qatc.prepare` returned, calibrated or trained; it is not changed.
        path: the file to write.
        target: the target it was prepared for (the default).
        options: the form of weights and of few bits, the type of floats, open and fixed sizes.
        opset: the ONNX opset; the target's own default otherwise.
        dump_dir: a folder for the numbered dumps of the lowering passes (`qatc.inspection.DumpFolder`).
        encodings: a JSON file for every tensor's scale and offset, in AIMET's format 1.0.0.
        observers: what else is told of the graph and of each pass, as `qatc.inspection.PrintPasses()`.

    Raises:
        LoweringError: not a prepared model, another target, an opset or an option it does not have, or a rule of its
            linter broken.
        CalibrationError: a range is missing or not finite.

    """
    lowered = lowered_proto(model, target, options, opset=opset, dump_dir=dump_dir, observers=observers)
    write_all(lowered.files(Path(path), None if encodings is None else Path(encodings)))
    return lowered


def lowered_proto(
    model: nn.Module,
    target: str | Target | None = None,
    options: LoweringOptions = DEFAULT,
    *,
    opset: int | None = None,
    dump_dir: str | Path | None = None,
    observers: Iterable[Observer] = (),
) -> Lowered:
    """Do what `lower` does, without a file."""
    if not isinstance(model, PreparedModel) or model.prepared_for is None:
        raise LoweringError("this is not a prepared model", remedy="qatc.prepare it, calibrate or train it, then lower")
    chosen = _checked_target(model, model.prepared_for.target, target)
    written = options.narrowed(chosen)
    opset = _checked_opset(chosen, opset, _least_opset(model, options, chosen))
    _check_state(model)
    gm = copy.deepcopy(model).eval().cpu()
    pipeline = lowering_pipeline(written, options)
    observers = (*observers, *dumps_of(dump_dir, chosen, model.prepared_for.config))
    pipeline.begin(gm, observers, "prepared")
    pipeline.run(gm, observers)
    model_ir = emitted(gm, max(opset, LEAST_WRITTEN))
    if options.float_dtype == "fp16":
        to_float16(model_ir, keep_ends=options.io_dtype == "fp32")
    metadata = {
        "qatc.version": qatc.__version__,
        "qatc.target": chosen.name,
        "qatc.opset": str(opset),
        "qatc.config": _config_text(model.prepared_for.config),
    }
    proto = finished(model_ir, opset, metadata)
    # Notes are of what no file can change; prepare's report has said what is float.
    findings = tuple(finding for finding in lint(proto, chosen.lint) if finding.severity != "note")
    errors = [str(f) for f in findings if f.severity == "error"]
    if errors:
        raise LoweringError(
            f"the file breaks {len(errors)} rules of {chosen.name}:\n  " + "\n  ".join(errors),
            remedy="exclude the layers named by a rule of the configuration, or report this",
        )
    if dump_dir is not None:
        (Path(dump_dir) / "99-onnx.txt").write_text(onnx.printer.to_text(_without_weights(proto)), encoding="utf-8")
    return Lowered(proto, chosen, findings, widths(model), options)


def _checked_target(model: PreparedModel, prepared: Target, wanted: str | Target | None) -> Target:
    chosen = prepared if wanted in (None, prepared.name) else target_of(wanted or prepared)
    if chosen != prepared:
        rows = _moves(model, prepared, chosen)
        raise LoweringError(
            f"the model was prepared and trained for {prepared.name}; for {chosen.name} quantizers would move:\n{rows}",
            remedy=f"prepare and train with target={chosen.name!r}, lower for {prepared.name!r}, or let them be moved: "
            "qatc.replace_placement, on the command line --replace-placement",
        )
    return chosen


def _moves(model: PreparedModel, prepared: Target, chosen: Target) -> str:
    """Return, as a table, what another target would move."""
    try:
        changes = placement_changes(model, placed_for(model, chosen).model)
    except QatcError as error:
        return f"they cannot be listed: {error.what}"
    return table(changes, prepared.name, chosen.name) if changes else "nothing would move"


def _least_opset(model: nn.Module, options: LoweringOptions, target: Target) -> int:
    """Return the first opset that has the model's codes, of more than 8 bits since 21, and what options ask for."""
    bits = [m.spec.bits for m in model.modules() if isinstance(m, Quantizer)]
    return max(21 if max(bits, default=8) > 8 else 0, options.least_opset(min(bits, default=8), target))


def _checked_opset(target: Target, opset: int | None, needed: int) -> int:
    least, greatest, default = target.file.opset
    least, default = max(least, needed), max(default, needed)
    if opset is not None and not least <= opset <= greatest:
        raise LoweringError(
            f"opset {opset} does not fit {target.name}", remedy=f"choose {least} to {greatest} (default {default})"
        )
    return default if opset is None else opset


def _check_state(model: fx.GraphModule) -> None:
    blocking = {
        str(node.target) for node in masks(model.graph) if node.op == "get_attr"
    }  # infinities are their purpose
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        owner = model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, Quantizer) or not tensor.is_floating_point():
            continue
        good = ~torch.isnan(tensor) if name in blocking else torch.isfinite(tensor)
        if not bool(good.all()):
            raise CalibrationError(
                "there is a NaN or an infinity in the weights", where=name, remedy="train again from a good state"
            )
    for name, module in model.named_modules():
        if isinstance(module, Quantizer) and not module.ready:
            raise CalibrationError(
                "the model has a quantizer without a finite range",
                where=name,
                remedy="run qatc.calibrate(model, batches) before lowering, and look for NaN in data and weights",
            )


def write_whole(path: Path, content: bytes) -> None:
    """Write one file as `write_all` does."""
    write_all({path: content})


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write the files, all or none: each by a rename, once all are written; a `LoweringError` if they can't be."""
    try:
        with replacing_all(tuple(files)) as opened:
            for file, content in zip(opened, files.values(), strict=True):
                file.write(content)
    except OSError as error:
        raise LoweringError(
            f"the file cannot be written: {error.strerror}",
            where=str(error.filename or next(iter(files))),
            remedy="choose another output path",
        ) from error


def _json(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=1)}\n".encode()


def _config_text(config: QConfig) -> str:
    """Return the configuration as TOML; rules that match by code are left out, and a comment says how many."""
    plain = tuple(rule for rule in config.rules if isinstance(rule.match, str | type))
    left = len(config.rules) - len(plain)
    return (f"# rules that match by code, left out: {left}\n" if left else "") + replace(config, rules=plain).to_toml()


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with large constants named but not written out."""
    short = onnx.ModelProto()
    short.CopyFrom(proto)
    del short.graph.initializer[:]
    return short
