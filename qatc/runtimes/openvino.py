"""OpenVINO's CPU plugin, and the precision in which it runs each layer of a file.

Source: `runtimePrecision`, `outputPrecisions`, `layerType` and `originalLayersNames` in the run-time information of
`CompiledModel.get_runtime_model()`, OpenVINO's documentation of its execution graph.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from qatc.runtimes.runtime import Arrays, Runtime, Session

# Processors with bfloat16 would otherwise round to it what is left in float32.
_OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
_WEIGHTED = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_INTEGER = frozenset({"i8", "u8"})


@dataclass(frozen=True)
class LayerPrecision:
    """One layer of the graph that the CPU plugin runs.

    `kind` is the plugin's own (`Convolution`, `Deconvolution`, `FullyConnected`, `Eltwise`), `precision` what it
    computes in (`i8`, `u8`, `f32`), `output` the precision of its result, and `fused` the names of the nodes of the
    file that it stands for.
    """

    name: str
    kind: str
    precision: str
    output: str
    fused: tuple[str, ...]

    @property
    def left_in_float(self) -> bool:
        """Whether it is a layer that multiplies matrices, and not in 8-bit integers."""
        return self.kind in _WEIGHTED and self.precision not in _INTEGER


def precisions(proto: onnx.ModelProto) -> list[LayerPrecision]:
    """Return the layers of the graph that the CPU plugin makes of a file, in its order, constants left out."""
    rows = [_layer(op) for op in _compiled(proto).get_runtime_model().get_ordered_ops()]
    return [row for row in rows if row.kind != "Const"]


def left_in_float(layers: Sequence[LayerPrecision]) -> list[LayerPrecision]:
    """Return the layers that multiply matrices, and not in 8-bit integers."""
    return [layer for layer in layers if layer.left_in_float]


def _layer(op: Any) -> LayerPrecision:
    said = {key: value.astype(str) for key, value in op.get_rt_info().items()}
    fused = tuple(name for name in said["originalLayersNames"].split(",") if name)
    return LayerPrecision(
        op.get_friendly_name(), said["layerType"], said["runtimePrecision"], said["outputPrecisions"], fused
    )


def _compiled(proto: onnx.ModelProto) -> Any:
    core = importlib.import_module("openvino").Core()  # an extra: imported where it is asked for
    return core.compile_model(core.read_model(proto.SerializeToString(), b""), "CPU", _OPTIONS)


def _start(proto: onnx.ModelProto) -> Session:
    model = _compiled(proto)
    inputs = {name: port.element_type.to_dtype() for port in model.inputs for name in port.names}
    ports = {name: port for port in model.outputs for name in port.names}

    def run(feeds: Arrays) -> Arrays:
        result = model({name: array.astype(inputs[name]) for name, array in feeds.items() if name in inputs})
        return {o.name: result[ports[o.name]] for o in proto.graph.output}

    return run


OPENVINO = Runtime(
    name="openvino",
    summary="OpenVINO's CPU plugin, float layers in float32: Q/DQ become the precision of its layers",
    package="openvino",
    start=_start,
    extra="openvino",
    # FakeQuantize adds the zero point before it rounds; in float32 sums from 128 to 256 lie 2^-16 apart (measured: each
    # of the codes that differed over 50 networks lay nearer to a tie).
    tie=2.0**-16,
    # A sum is fused into its convolution, and the grid between them dropped, unless that grid's codes are an output.
    # Of files with grids there at most half of the samples agreed, of those for this runtime 15 of 16 at least.
    agreeing=0.75,
)
