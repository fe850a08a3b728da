"""The check that a lowered file computes what was simulated: integer codes compared at every quantized tensor."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import fx

from qatc import ir
from qatc.lowering import float16
from qatc.lowering.flatten_inputs import input_name, input_types
from qatc.lowering.lower_modules import flat_signature
from qatc.lowering.lowered import Lowered
from qatc.lowering.options import DEFAULT, LoweringOptions
from qatc.lowering.verify_data import Array, batches, checked_data
from qatc.lowering.widened import widened
from qatc.modules.kinds import op_kind
from qatc.nested import tensors
from qatc.pipeline import Pipeline
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer

_SIMULATED = ":simulated"
_BY_VALUE = frozenset({
    "Sigmoid", "Swish", "HardSwish", "HardSigmoid", "Gelu", "Tanh", "Elu", "Celu", "Selu", "Mish", "Softplus",
    "Softsign", "LeakyRelu", "Relu", "Clip", "Add", "Sub", "Mul", "Div", "Pow",
})  # fmt: skip
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
    of_codes: bool = False
    """Whether an op of one quantized tensor made it value by value: equal codes in, equal codes out."""
    bits: int = 8

    @property
    def together(self) -> float:
        """How many codes differ at once: of a function of codes, all that have the code at a boundary."""
        return max(1.0, self.codes / 2.0**self.bits) if self.of_codes else 1.0

    @property
    def finer(self) -> float:
        """How many of the steps of 8 bits' size its steps are smaller: float32 rounds across as many more ties."""
        return 2.0 ** max(0, self.bits - 8)


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
        alike = [[t for t in self.tensors if (t.bits <= 8) == narrow] for narrow in (True, False)]
        within = all(sum(t.differing for t in some) <= self._allowed(some) for some in alike)
        return within and all(t.step <= self.step_limit for t in self.tensors)

    @property
    def allowed(self) -> int:
        """Codes that may differ per op: the limit's share, and three standard deviations of such a count by chance.

        Codes of a function of codes (SiLU) do not differ one by one, so their count spreads more. Of b > 8 bits 2^(b-8)
        times as many may differ: no runtime here has integer kernels for them, and float32 rounds at those steps. They
        are counted apart from the others.
        """
        return 0 if self.exact else self._allowed(self.tensors)

    def _allowed(self, some: Sequence[TensorCheck]) -> int:
        expected = sum(self.limit * t.finer * t.codes for t in some)
        variance = sum(self.limit * t.finer * t.codes * t.together for t in some)
        return math.ceil(expected + 3 * math.sqrt(variance))

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
    """Run simulation and file on `data` (an array per input of the file, by its name) and compare every code.

    `level` is ONNX Runtime's optimization, "extended" or "disabled"; the target's own where not given.
    Raises `VerificationError` where names, shapes or types of the data do not fit the model.
    """
    batch = lowered.options.batch
    model = flat(model, replace(lowered.options, batch=None))
    types = input_types(model)
    arrays = checked_data(types, data, known_inputs(model), batch)
    level = level or lowered.target.verify.level
    quantized = code_tensors(lowered.proto)
    proto = widened(lowered.proto, quantized)
    local = session(fed_with_codes(proto, quantized), level)
    whole = session(with_outputs(proto, quantized), level)
    outputs = [o.name for o in lowered.proto.graph.output]
    found = {name: TensorCheck(name, 0, 0, 0, 0, 0) for name in quantized}
    error, jitter, power = 0.0, 0.0, 0.0
    for feeds in batches(arrays, types, batch):
        codes, simulated = simulate(model, list(feeds.values()))
        fed = {name + _SIMULATED: codes[quantizer] for name, quantizer in quantized.items()}
        near = dict(zip(quantized, local.run(list(quantized), _used(local, feeds | fed)), strict=True))
        far = dict(zip([*quantized, *outputs], whole.run([*quantized, *outputs], _used(whole, feeds)), strict=True))
        for name, quantizer in quantized.items():
            found[name] = _counted(found[name], codes[quantizer], near[name], far[name])
        _, jittered = simulate(model, [_jittered(x) for x in feeds.values()])
        for ours, theirs, moved in zip(simulated, (far[name] for name in outputs), jittered, strict=True):
            power += float(np.square(ours, dtype=np.float64).sum())
            error += float(np.square(ours.astype(np.float64) - theirs).sum())
            jitter += float(np.square(ours.astype(np.float64) - moved).sum())
    bits = {ir.source_of(node).path: m.spec.bits for node, m in ir.module_calls(model) if isinstance(m, Quantizer)}
    pow2 = model.prepared_for is not None and model.prepared_for.pow2
    # Sums of products of wider codes are more than float32 holds.
    half = lowered.options.float_dtype == "fp16"
    exact = pow2 and not half and all(m.spec.bits <= 8 for m in model.modules() if isinstance(m, Quantizer))
    rule = lowered.target.verify
    limit = float16.DIFFERING if half else rule.differing
    by_value = functions_of_codes(model)
    named = tuple(
        TensorCheck(quantized[n], *_numbers(t), quantized[n] in by_value, bits[quantized[n]]) for n, t in found.items()
    )
    return Verification(named, decibel(power, error), decibel(power, jitter), limit, rule.step, exact)


def functions_of_codes(model: fx.GraphModule) -> set[str]:
    """Return the quantizer calls, by name, whose tensor is a function, value by value, of one quantized tensor."""
    source: dict[fx.Node, fx.Node | None] = {}
    found: set[str] = set()
    for node in model.graph.nodes:
        module, inputs = ir.module_of(node), ir.tensor_inputs(node)
        if isinstance(module, Quantizer):
            if source.get(inputs[0]) is not None and ir.grid_source(inputs[0]) is None:
                found.add(ir.source_of(node).path)
            source[node] = node
        elif module is not None and op_kind(module) in _BY_VALUE:
            origins = {source.get(tensor) for tensor in inputs}
            source[node] = origins.pop() if len(origins) == 1 else None
    return found


def flat(model: PreparedModel, options: LoweringOptions = DEFAULT) -> PreparedModel:
    """Return a copy of the model that takes and gives tensors only, as the file does."""
    twin = copy.deepcopy(model).cpu()
    Pipeline(flat_signature(options)).run(twin)
    return twin


def known_inputs(model: PreparedModel) -> set[str]:
    """Return the names of all inputs that the model was last seen with, those that it never reads included."""
    inputs = (model.prepared_for and model.prepared_for.inputs) or ()
    return {input_name(given.path) for given in inputs}


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
    return recorder.codes, [tensor.detach().numpy() for _, tensor in tensors(result)]


def code_tensors(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the tensors that hold codes of activations: their name in the file, and that of their quantizer."""
    constants = {c.name for c in proto.graph.initializer}
    found: dict[str, str] = {}
    for node in proto.graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
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
        node.input[:] = [name + _SIMULATED if name in tensors else name for name in node.input]
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


def _used(of: onnxruntime.InferenceSession, feeds: dict[str, Array]) -> dict[str, Array]:
    wanted = {i.name: i.type for i in of.get_inputs()}
    return {
        name: array.astype(np.float16) if wanted[name] == "tensor(float16)" else array
        for name, array in feeds.items()
        if name in wanted
    }


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


def decibel(power: float, error: float) -> float:
    """Return the ratio of a signal's power to an error's in dB."""
    return math.inf if error == 0 else 10 * math.log10(max(power, 1e-30) / error)
