"""What a TorchFunctionMode does not see: calls of modules, of autograd functions, and of scripted functions."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from qatc.nested import tensors
from qatc.tracing.capture import Capture

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
            return args[0](*args[2:])
        return _one_call(capture, apply.__get__(None, cls), cls.apply, args, kwargs)

    def call_scripted(function: Any, *args: Any, **kwargs: Any) -> Any:
        return _one_call(capture, lambda *a, **k: scripted_call(function, *a, **k), _plain(function), args, kwargs)

    torch.backends.mha.set_fastpath_enabled(False)  # one fused call for a whole Transformer layer
    try:
        with (
            mock.patch.object(nn.Module, "__call__", call_module),
            mock.patch.object(torch.autograd.Function, "apply", classmethod(apply_function)),
            mock.patch.object(torch.jit.ScriptFunction, "__call__", call_scripted),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


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
