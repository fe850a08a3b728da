"""The check that a lowered file computes what was simulated: integer codes compared at every quantized tensor."""

import copy
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx

from qatc import ir
from qatc.lowering import float16
from qatc.lowering.flatten_inputs import input_name, input_types
from qatc.lowering.lower_modules import flat_signature
from qatc.lowering.lowered import Lowered
from qatc.lowering.options import DEFAULT, LoweringOptions
from qatc.lowering.verification import TensorCheck, Verification, Verifications, decibel
from qatc.lowering.verify_data import Array, batches, checked_data, sample_count
from qatc.lowering.widened import widened
from qatc.modules.kinds import op_kind
from qatc.nested import tensors
from qatc.pipeline import Pipeline
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from qatc.runtimes import Runtime, runtime_of

_SIMULATED = ":simulated"
# In steps, how near a tie lies what an op in float gives, which no two libraries compute alike to the last bit: at
# codes of 8 bits float32 has 16 bits behind the point, and such ops are off by a few of its last places.
_FLOAT_TIE = 2.0**-12
_ROUNDING = 1e-5
_BY_VALUE = frozenset({
    "Sigmoid", "Swish", "HardSwish", "HardSigmoid", "Gelu", "Tanh", "Elu", "Celu", "Selu", "Mish", "Softplus",
    "Softsign", "LeakyRelu", "Relu", "Clip", "Add", "Sub", "Mul", "Div", "Pow",
})  # fmt: skip


@dataclass(frozen=True)
class _Recorded:
    """What the simulation gives for so many samples: codes by quantizer call, and outputs.

    `from_ties` is how far, in steps, each value lies from the tie between two codes; only where a runtime asks for it.
    """

    codes: dict[str, Array]
    outputs: list[Array]
    zero_points: dict[str, float]
    from_ties: dict[str, Array]
    samples: int


def verify(
    model: PreparedModel, lowered: Lowered, data: Mapping[str, Array], *, runtime: str | Runtime = ""
) -> Verification:
    """Run simulation and file on `data` (an array per input of the file, by its name) and compare every code.

    `runtime` is what runs the file, by name or itself; the first of the target's own where not given.
    Raises `VerificationError` where names, shapes or types of the data do not fit the model, or where the runtime is
    not installed; `ConfigError` where there is none of that name.
    """
    return verify_on(model, lowered, data, (runtime or lowered.target.verify.runtimes[0],)).runs[0]


def verify_on(
    model: PreparedModel, lowered: Lowered, data: Mapping[str, Array], runtimes: Sequence[str | Runtime] = ()
) -> Verifications:
    """Do what `verify` does on several runtimes; on the target's own where none are given."""
    rule = lowered.target.verify
    chosen = [runtime_of(runtime) for runtime in dict.fromkeys(runtimes or rule.runtimes)]
    batch = lowered.options.batch
    model = flat(model, replace(lowered.options, batch=None))
    types = input_types(model)
    arrays = checked_data(types, data, known_inputs(model), batch)
    floats = behind_floats(model)
    runs = [_Run(lowered.proto, runtime, floats) for runtime in chosen]
    ties = bool(floats) or any(runtime.tie for runtime in chosen)
    power, jitter = 0.0, 0.0
    for feeds in batches(arrays, types, batch):
        recorded = _recorded(model, list(feeds.values()), sample_count(feeds, types), ties)
        for run in runs:
            run.compare(feeds, recorded)
        _, jittered = simulate(model, [_jittered(x) for x in feeds.values()])
        power += sum(_squares(ours) for ours in recorded.outputs)
        jitter += sum(_squares(ours, moved) for ours, moved in zip(recorded.outputs, jittered, strict=True))
    bits = {ir.source_of(node).path: m.spec.bits for node, m in ir.module_calls(model) if isinstance(m, Quantizer)}
    pow2 = model.prepared_for is not None and model.prepared_for.pow2
    # Sums of products of wider codes are more than float32 holds.
    half = lowered.options.float_dtype == "fp16"
    limit = float16.DIFFERING if half else rule.differing
    exact = pow2 and not half and all(m.spec.bits <= 8 for m in model.modules() if isinstance(m, Quantizer))
    by_value = functions_of_codes(model)
    found = [
        Verification(
            tuple(replace(t, of_codes=t.name in by_value, bits=bits[t.name]) for t in run.tensors.values()),
            decibel(power, run.error), decibel(power, jitter), limit, rule.step, exact,
            decibel(power, run.error_per_op), run.agreeing / run.samples, run.runtime.agreeing,
            run.runtime.name, run.runtime.version, run.samples, run.samples_behind_ties,
        )
        for run in runs
    ]  # fmt: skip
    return Verifications(lowered.target.name, tuple(found), rule.runtimes)


class _Run:
    """A file on one runtime: cut at its codes, whole with its codes as outputs, as it is; and what was found.

    It is run as it is only where codes as outputs change what the runtime fuses.
    """

    def __init__(self, proto: onnx.ModelProto, runtime: Runtime, floats: Container[str]) -> None:
        self.runtime, self.quantized = runtime, code_tensors(proto)
        self.near = {name: _FLOAT_TIE if name in floats else runtime.tie for name in self.quantized.values()}
        wide = widened(proto, self.quantized)
        self.cut = runtime.session(fed_with_codes(wide, self.quantized))
        self.whole = runtime.session(with_outputs(wide, self.quantized))
        self.file = runtime.session(proto) if runtime.agreeing else None
        self.outputs = [o.name for o in proto.graph.output]
        self.tensors = {name: TensorCheck(quantizer, 0, 0, 0, 0, 0) for name, quantizer in self.quantized.items()}
        self.error, self.error_per_op = 0.0, 0.0
        self.samples, self.samples_behind_ties, self.agreeing = 0, 0, 0

    def compare(self, feeds: Mapping[str, Array], recorded: _Recorded) -> None:
        """Run one batch, and add what differs."""
        ours = {name: recorded.codes[quantizer] for name, quantizer in self.quantized.items()}
        near = self.cut({**feeds, **{name + _SIMULATED: codes for name, codes in ours.items()}})
        far = self.whole(feeds)
        steps = {name: np.abs(codes.astype(np.int32) - near[name]) for name, codes in ours.items()}
        ties = {
            name: (steps[name] == 1) & (recorded.from_ties.get(quantizer, math.inf) <= self.near[quantizer])
            for name, quantizer in self.quantized.items()
        }
        behind = _samples(ties.values(), recorded.samples)
        self.samples += recorded.samples
        self.samples_behind_ties += int(behind.sum())
        for name, codes in ours.items():
            apart = np.abs(codes.astype(np.int32) - far[name])
            so_far = self.tensors[name]
            self.tensors[name] = replace(
                so_far,
                codes=so_far.codes + codes.size,
                differing=so_far.differing + int(np.count_nonzero(steps[name])),
                step=max(so_far.step, int(steps[name].max(initial=0))),
                differing_end_to_end=so_far.differing_end_to_end + int(np.count_nonzero(apart)),
                step_end_to_end=max(so_far.step_end_to_end, int(apart.max(initial=0))),
                at_ties=so_far.at_ties + int(np.count_nonzero(ties[name])),
                behind_ties=so_far.behind_ties + _count_of(apart, behind),
                power=so_far.power + _squares(codes, recorded.zero_points[self.quantized[name]]),
                error=so_far.error + _squares(apart),
            )
        result = far if self.file is None else self.file(feeds)
        for simulated, name in zip(recorded.outputs, self.outputs, strict=True):
            self.error += _squares(simulated, result[name])
            self.error_per_op += _squares(simulated, near[name])
        parted = _samples((_parts(far[name], result[name]) for name in self.outputs), recorded.samples)
        self.agreeing += int(np.count_nonzero(~parted))


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


def behind_floats(model: fx.GraphModule) -> set[str]:
    """Return the quantizer calls, by name, whose tensor an op in float gives (LayerNorm, GELU), or ops behind it.

    What is a quotient, an exponential, or interpolated counts as one on every target.
    """
    floats: set[fx.Node] = set()
    found: set[str] = set()
    for node in model.graph.nodes:
        behind = any(tensor in floats for tensor in ir.tensor_inputs(node))
        if ir.module_of(node, Quantizer) is not None:
            found |= {ir.source_of(node).path} if behind else set()
        elif behind or _is_inexact(node) or (ir.why_float(node) and not ir.fused_into(node)):
            floats.add(node)
    return found


# In integers on some targets, but run by ONNX Runtime in float here.
_INEXACT = frozenset({
    "Tanh", "Gelu", "Swish", "HardSwish", "HardSigmoid", "Mish", "Elu", "Celu", "Selu", "Softplus",
    "Softsign", "Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "GroupNormalization",
    "InstanceNormalization", "LpNormalization", "LRN", "Resize-linear", "Div", "Pow",
})  # fmt: skip


def _is_inexact(node: fx.Node) -> bool:
    module = ir.module_of(node)
    return module is not None and op_kind(module) in _INEXACT


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
    """Runs a prepared model and keeps the codes of every quantizer call, and how near ties they lie, by its name."""

    def __init__(self, gm: fx.GraphModule, ties: bool) -> None:
        super().__init__(gm)
        self.ties = ties
        self.codes: dict[str, Array] = {}
        self.zero_points: dict[str, float] = {}
        self.from_ties: dict[str, Array] = {}

    def run_node(self, n: fx.Node) -> Any:
        quantizer = ir.module_of(n, Quantizer)
        if quantizer is not None:
            x, name = self.env[n.args[0]], ir.source_of(n).path  # type: ignore[index]
            self.codes[name] = quantizer.codes(x).to(quantizer.spec.dtype).numpy()
            grid = quantizer.checked_grid(x)
            self.zero_points[name] = float(grid.zero_point)
            if self.ties:
                steps = x / grid.scale
                self.from_ties[name] = (steps - steps.floor() - 0.5).abs().numpy()
        return super().run_node(n)


def simulate(model: PreparedModel, inputs: Sequence[Array]) -> tuple[dict[str, Array], list[Array]]:
    """Return the codes of every quantized tensor and the outputs of the model in eval mode."""
    recorded = _recorded(model, inputs, 1, ties=False)
    return recorded.codes, recorded.outputs


def _recorded(model: PreparedModel, inputs: Sequence[Array], samples: int, ties: bool) -> _Recorded:
    modes = {module: module.training for module in model.modules()}
    recorder = _CodeRecorder(model, ties)
    try:
        with torch.no_grad():
            model.eval()
            result = recorder.run(*(torch.from_numpy(np.array(x)) for x in inputs))
    finally:
        for module, training in modes.items():
            module.training = training
    outputs = [tensor.detach().numpy() for _, tensor in tensors(result)]
    return _Recorded(recorder.codes, outputs, recorder.zero_points, recorder.from_ties, samples)


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


def _samples(marked: Iterable[Array], count: int) -> Array:
    """Return which samples of a batch something is marked in; where a tensor is not cut by samples, all are."""
    found = np.zeros(count, bool)
    for marks in marked:
        found |= marks.reshape(count, -1).any(axis=1) if marks.shape[:1] == (count,) else marks.any()
    return found


def _parts(a: Array, b: Array) -> Array:
    """Return which values of an output differ by more than float32's rounding in another order."""
    marks: Array = np.abs(np.subtract(a, b, dtype=np.float64)) > _ROUNDING * np.abs(a).max(initial=0.0)
    return marks


def _count_of(apart: Array, samples: Array) -> int:
    """Return how many codes of these samples differ."""
    if apart.shape[:1] == samples.shape:
        return int(np.count_nonzero(apart[samples]))
    return int(np.count_nonzero(apart)) if samples.any() else 0


def _jittered(x: Array) -> Array:
    if x.dtype.kind != "f":
        return x
    signs = np.where(np.arange(x.size).reshape(x.shape) % 2, 1.0, -1.0)
    return (x * (1 + 1e-6 * signs)).astype(x.dtype)


def _squares(a: Array, less: Array | float = 0.0) -> float:
    return float(np.square(np.subtract(a, less, dtype=np.float64)).sum())
