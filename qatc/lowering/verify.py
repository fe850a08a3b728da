"""The check that a lowered file computes what was simulated: integer codes compared at every quantized tensor."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from tqdm import tqdm

from qatc import ir
from qatc.errors import VerificationError
from qatc.lowering.lowered import Lowered, input_names
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer

Array = NDArray[Any]
_SIMULATED = ":simulated"
_BATCH = 16
_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}


@dataclass(frozen=True)
class TensorCheck:
    """One quantized tensor: codes compared, codes that differ and the largest step, per op and end to end."""

    name: str
    codes: int
    differing: int
    step: int
    differing_end_to_end: int
    step_end_to_end: int


@dataclass(frozen=True)
class Verification:
    """Simulation against file.

    Per op, each op of the file is fed with the simulation's own codes, so that a flipped code counts once; end to end
    the file runs as it is. `sqnr` is that of the file's outputs against the simulation's, in dB; `jitter_sqnr` that of
    the simulation against itself with inputs changed by a millionth: what differs less is noise of floating point.
    """

    tensors: tuple[TensorCheck, ...]
    sqnr: float
    jitter_sqnr: float
    limit: float
    step_limit: int
    exact: bool

    @property
    def codes(self) -> int:
        """Codes compared."""
        return sum(t.codes for t in self.tensors)

    @property
    def differing(self) -> int:
        """Codes that differ, per op."""
        return sum(t.differing for t in self.tensors)

    @property
    def differing_end_to_end(self) -> int:
        """Codes that differ when the file runs as it is."""
        return sum(t.differing_end_to_end for t in self.tensors)

    @property
    def passed(self) -> bool:
        """Whether the file is within the target's limit: with power-of-two scales no code may differ."""
        if self.exact:
            return self.differing == 0 and self.differing_end_to_end == 0
        return self.differing <= self.allowed and all(t.step <= self.step_limit for t in self.tensors)

    @property
    def allowed(self) -> int:
        """Codes that may differ per op: the limit's share, and three standard deviations of such a count by chance."""
        if self.exact:
            return 0
        expected = self.limit * self.codes
        return math.ceil(expected + 3 * math.sqrt(expected))

    def __str__(self) -> str:
        head = f"{'tensor':<40} {'codes':>10} {'differ':>8} {'step':>5} {'end to end':>11} {'step':>5}"
        worst = sorted(self.tensors, key=lambda t: (t.differing, t.differing_end_to_end), reverse=True)[:10]
        rows = [
            f"{t.name:<40} {t.codes:>10} {t.differing:>8} {t.step:>5} {t.differing_end_to_end:>11} "
            f"{t.step_end_to_end:>5}"
            for t in worst
        ]
        allowed = "0, end to end" if self.exact else f"{self.allowed} per op"
        return "\n".join(
            [
                head,
                *rows,
                f"{len(self.tensors)} tensors, {self.codes} codes: {self.differing} differ per op, "
                f"{self.differing_end_to_end} end to end (allowed: {allowed})",
                f"outputs: SQNR {self.sqnr:.1f} dB; the simulation against itself, jittered by 1e-6: "
                f"{self.jitter_sqnr:.1f} dB",
                "verified" if self.passed else "NOT verified: the file does not compute what was simulated",
            ]
        )


def verify(model: PreparedModel, lowered: Lowered, data: Mapping[str, Array], *, level: str = "") -> Verification:
    """Run simulation and file on `data` (an array per input) and compare every code.

    `level` is ONNX Runtime's optimization, "extended" or "disabled"; the target's own where not given.
    Raises `VerificationError` where names, shapes or types of the data do not fit the model.
    """
    arrays = checked_data(model, data)
    level = level or lowered.target.verify.level
    tensors = code_tensors(lowered.proto)
    local = session(fed_with_codes(lowered.proto, tensors), level)
    whole = session(with_outputs(lowered.proto, tensors), level)
    outputs = [o.name for o in lowered.proto.graph.output]
    found = {name: TensorCheck(name, 0, 0, 0, 0, 0) for name in tensors}
    error, jitter, power = 0.0, 0.0, 0.0
    for batch in _batches(arrays):
        codes, simulated = simulate(model, batch)
        feeds = dict(zip(input_names(model), batch, strict=True))
        fed = {name + _SIMULATED: codes[quantizer] for name, quantizer in tensors.items()}
        near = dict(zip(tensors, local.run(list(tensors), _used(local, feeds | fed)), strict=True))
        far = dict(zip([*tensors, *outputs], whole.run([*tensors, *outputs], feeds), strict=True))
        for name, quantizer in tensors.items():
            found[name] = _counted(found[name], codes[quantizer], near[name], far[name])
        _, jittered = simulate(model, [_jittered(x) for x in batch])
        for ours, theirs, moved in zip(simulated, (far[name] for name in outputs), jittered, strict=True):
            power += float(np.square(ours, dtype=np.float64).sum())
            error += float(np.square(ours.astype(np.float64) - theirs).sum())
            jitter += float(np.square(ours.astype(np.float64) - moved).sum())
    exact = model.prepared_for is not None and model.prepared_for.config.pow2
    rule = lowered.target.verify
    named = tuple(TensorCheck(tensors[n], *_numbers(t)) for n, t in found.items())
    return Verification(named, _decibel(power, error), _decibel(power, jitter), rule.differing, rule.step, exact)


def checked_data(model: PreparedModel, data: Mapping[str, Array]) -> list[Array]:
    """Return the arrays in the order of the model's inputs; a `VerificationError` where they do not fit."""
    names = list(input_names(model))
    types = (model.prepared_for and model.prepared_for.inputs) or ()
    expected = ", ".join(f"{n} {t} [N, {', '.join(map(str, s[1:]))}]" for n, (t, s) in zip(names, types, strict=False))
    if len(names) == 1 and list(data) == ["arr_0"]:
        data = {names[0]: data["arr_0"]}
    if set(data) != set(names):
        raise VerificationError(
            f"the data has arrays {sorted(data)}, the model inputs {names}",
            remedy=f"write np.savez(file, {', '.join(f'{n}=...' for n in names)}); expected: {expected}",
        )
    arrays = [np.asarray(data[name]) for name in names]
    for name, array, (dtype, shape) in zip(names, arrays, types, strict=False):
        if array.ndim != len(shape) or array.shape[1:] != tuple(shape[1:]) or str(array.dtype) != dtype:
            raise VerificationError(
                f"array {name!r} is {array.dtype} {list(array.shape)}", remedy=f"expected: {expected}"
            )
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
        raise VerificationError("the data has NaN or infinite values", remedy="verify with data of the real kind")
    if not all(len(array) for array in arrays) or len({len(array) for array in arrays}) > 1:
        raise VerificationError("the arrays have no, or different numbers of samples", remedy=f"expected: {expected}")
    return arrays


class _CodeRecorder(fx.Interpreter):
    """Runs a prepared model and keeps the codes of every quantizer call, by the call's own name."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.codes: dict[str, Array] = {}

    def run_node(self, n: fx.Node) -> Any:
        quantizer = ir.module_of(n, Quantizer)
        if quantizer is not None:
            x = self.env[n.args[0]]  # type: ignore[index]
            self.codes[ir.source_of(n).path] = quantizer.codes(x).to(quantizer.spec.dtype).numpy()
        return super().run_node(n)


def simulate(model: PreparedModel, inputs: Sequence[Array]) -> tuple[dict[str, Array], list[Array]]:
    """Return the codes of every quantized tensor and the outputs of the model in eval mode."""
    modes = {module: module.training for module in model.modules()}
    recorder = _CodeRecorder(model)
    try:
        with torch.no_grad():
            model.eval()
            result = recorder.run(*(torch.from_numpy(np.array(x)) for x in inputs))
    finally:
        for module, training in modes.items():
            module.training = training
    return recorder.codes, [t.numpy() for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]


def code_tensors(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the tensors that hold codes of activations: their name in the file, and that of their quantizer."""
    constants = {c.name for c in proto.graph.initializer}
    found: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            found.setdefault(node.input[0], node.name.rpartition("/")[0])
    return found


def with_outputs(proto: onnx.ModelProto, tensors: Mapping[str, str]) -> onnx.ModelProto:
    """Return the model with these tensors as outputs too."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    types = {v.name: v for v in copy.graph.value_info}
    copy.graph.output.extend(types[name] for name in tensors)
    return copy


def fed_with_codes(proto: onnx.ModelProto, tensors: Mapping[str, str]) -> onnx.ModelProto:
    """Return the model cut at these tensors: each is an output, and what reads it reads an input of its own instead."""
    copy = with_outputs(proto, tensors)
    types = {v.name: v for v in proto.graph.value_info}
    for node in copy.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
            node.input[0] += _SIMULATED
    for name in tensors:
        fed = onnx.ValueInfoProto()
        fed.CopyFrom(types[name])
        fed.name = name + _SIMULATED
        copy.graph.input.append(fed)
    return copy


def session(proto: onnx.ModelProto, level: str) -> onnxruntime.InferenceSession:
    """Return a CPU session of the model at an optimization level, "extended" or "disabled"."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _batches(arrays: Sequence[Array]) -> Iterator[list[Array]]:
    starts = range(0, len(arrays[0]), _BATCH)
    for start in tqdm(starts, "verify", disable=None if len(starts) > 1 else True):
        yield [array[start : start + _BATCH] for array in arrays]


def _used(of: onnxruntime.InferenceSession, feeds: dict[str, Array]) -> dict[str, Array]:
    wanted = {i.name for i in of.get_inputs()}
    return {name: array for name, array in feeds.items() if name in wanted}


def _counted(so_far: TensorCheck, ours: Array, near: Array, far: Array) -> TensorCheck:
    local, whole = (np.abs(ours.astype(np.int32) - theirs) for theirs in (near, far))
    return TensorCheck(
        so_far.name,
        so_far.codes + ours.size,
        so_far.differing + int(np.count_nonzero(local)),
        max(so_far.step, int(local.max(initial=0))),
        so_far.differing_end_to_end + int(np.count_nonzero(whole)),
        max(so_far.step_end_to_end, int(whole.max(initial=0))),
    )


def _numbers(check: TensorCheck) -> tuple[int, int, int, int, int]:
    return check.codes, check.differing, check.step, check.differing_end_to_end, check.step_end_to_end


def _jittered(x: Array) -> Array:
    if x.dtype.kind != "f":
        return x
    signs = np.where(np.arange(x.size).reshape(x.shape) % 2, 1.0, -1.0)
    return (x * (1 + 1e-6 * signs)).astype(x.dtype)


def _decibel(power: float, error: float) -> float:
    return math.inf if error == 0 else 10 * math.log10(max(power, 1e-30) / error)
