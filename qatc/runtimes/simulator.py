"""The reference simulator as a runtime: integer kernels by rule, in numpy, on any machine."""

from functools import partial

import onnx

from qatc.runtimes.runtime import Arrays, Runtime, Session
from qatc.simulator.run import run


def _start(proto: onnx.ModelProto) -> Session:
    onnx.checker.check_model(proto)
    return partial(_run, proto)


def _run(proto: onnx.ModelProto, feeds: Arrays) -> Arrays:
    return run(proto, feeds, [o.name for o in proto.graph.output])


SIMULATOR = Runtime(
    name="simulator",
    summary="qatc's reference simulator: the integers that Q/DQ stand for, in numpy",
    package="numpy",
    start=_start,
)
