"""The runtimes that a file can be run on, a file each; adding one is its file and one line here."""

from qatc.errors import unknown
from qatc.runtimes.onnxruntime import ONNXRUNTIME, ONNXRUNTIME_UNOPTIMIZED
from qatc.runtimes.openvino import OPENVINO
from qatc.runtimes.runtime import Arrays, Runtime, Session
from qatc.runtimes.simulator import SIMULATOR

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (ONNXRUNTIME, ONNXRUNTIME_UNOPTIMIZED, OPENVINO, SIMULATOR)
}


def runtime_of(runtime: "str | Runtime") -> Runtime:
    """Return the runtime itself, or the one of that name; an unknown name is a `ConfigError`."""
    if isinstance(runtime, Runtime):
        return runtime
    if runtime in RUNTIMES:
        return RUNTIMES[runtime]
    raise unknown("runtime", runtime, RUNTIMES, "runtimes: {}; or pass a Runtime")


__all__ = ["RUNTIMES", "Arrays", "Runtime", "Session", "runtime_of"]
