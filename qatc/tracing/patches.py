"""What a TorchFunctionMode does not see: calls of modules, autograd and scripted functions, len(), from_numpy()."""

import builtins
import contextlib
import importlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from qatc.autograd import applied
from qatc.nested import tensors
from qatc.tracing.capture import Capture

# The package has a function of this module's name.
_CHECKPOINT: Any = importlib.import_module("torch.utils.checkpoint")
_NOT_REENTRANT = "_checkpoint_without_reentrant_generator"
_SCRIPTED: dict[int, Any] = {}


@contextlib.contextmanager
def seen_by(capture: Capture) -> Iterator[None]:
    """Let the capture see these calls inside the block."""
    apply = torch.autograd.Function.__dict__["apply"]
    scripted_call = torch.jit.ScriptFunction.__call__
    fast_attention = torch.backends.mha.get_fastpath_enabled()

    def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return capture.call_module(module, *args, **kwargs)

    def apply_function(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls.__name__ == "CheckpointFunction":  # recomputes in backward what the wrapped function does
            capture.note_checkpoint()
            return args[0](*args[2:])
        return _one_call(capture, apply.__get__(None, cls), applied(cls), args, kwargs)

    def call_scripted(function: Any, *args: Any, **kwargs: Any) -> Any:
        written = getattr(function, "_torchdynamo_inline", None)
        if callable(written):  # the function as the user wrote it
            return written(*args, **kwargs)
        return _one_call(capture, lambda *a, **k: scripted_call(function, *a, **k), _plain(function), args, kwargs)

    def constant(array: Any, _from_numpy: Any = torch.from_numpy) -> Any:
        return capture.made_of_nothing(_from_numpy, (array,), {})

    def recomputed(*args: Any, _start: Any = _CHECKPOINT.__dict__[_NOT_REENTRANT], **kwargs: Any) -> Any:
        capture.note_checkpoint()
        return _start(*args, **kwargs)

    torch.backends.mha.set_fastpath_enabled(False)  # one fused call for a whole Transformer layer
    try:
        with (
            mock.patch.object(nn.Module, "__call__", call_module),
            mock.patch.object(torch.autograd.Function, "apply", classmethod(apply_function)),
            mock.patch.object(torch.jit.ScriptFunction, "__call__", call_scripted),
            mock.patch.object(builtins, "len", _length),
            mock.patch.object(torch, "from_numpy", constant),
            mock.patch.object(_CHECKPOINT, _NOT_REENTRANT, recomputed),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


def _length(value: Any, _len: Any = len) -> Any:
    """Return len(value), which of a tensor is a size that stays open: Python's own would insist on a number."""
    return value.shape[0] if isinstance(value, FakeTensor) and value.dim() else _len(value)


def _one_call(capture: Capture, run: Any, target: Any, args: Any, kwargs: Any) -> Any:
    """Run a function without looking into it, and write one node."""
    if capture.paused or not tensors((args, kwargs)):
        return run(*args, **kwargs)
    operands = capture.lowered(args), capture.lowered(kwargs)
    with capture.pause():
        result = run(*args, **kwargs)
    capture.bind(result, capture.node("call_function", target, *operands))
    return result


def _plain(function: Any) -> Any:
    """Return a Python function that calls the scripted one: generated code can import that by name."""
    if id(function) not in _SCRIPTED:

        def scripted(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        scripted.__name__ = scripted.__qualname__ = f"scripted_{getattr(function, 'name', '')}_{len(_SCRIPTED)}"
        globals()[scripted.__name__] = _SCRIPTED[id(function)] = scripted
    return _SCRIPTED[id(function)]
