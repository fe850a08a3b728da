"""Tracing without inputs: torch.fx's own, which cannot know sizes."""

import operator
from typing import Any

from torch import fx, nn
from torch.nn.utils import parametrize

from qatc.ir import Source, set_source
from qatc.modules.fused import Fused
from qatc.quantizers.base import Quantizer
from qatc.tracing.frames import user_place
from qatc.tracing.leaves import computes_its_weight, is_empty, is_frozen_norm, reads_training


class SymbolicTracer(fx.Tracer):
    """Symbolic tracing that notes the user's file and line at every node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether the graph calls the module itself."""
        if isinstance(m, parametrize.ParametrizationList) or computes_its_weight(m):
            return False
        alone = is_frozen_norm(m) or (is_empty(m) and reads_training(type(m), "forward"))
        return isinstance(m, Fused | Quantizer) or alone or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return a proxy that records in-place operators."""
        return _Proxy(node, self)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node, with the user's place."""
        if kind == "call_module" and not args[0] and "input" in args[1]:  # passes read the first argument
            named = dict(args[1])
            args = ((named.pop("input"),), named, *args[2:])
        node = super().create_node(kind, target, *args, **kwargs)
        path = target if kind in ("call_module", "get_attr", "placeholder") else self.scope.module_path
        place = ("", 0) if kind == "placeholder" else user_place("trace")
        set_source(node, Source(str(path), *place))
        return node


class _Proxy(fx.Proxy):
    """A proxy for which `x += y` and `x[i] = y` are what they are, ops that overwrite x (fx records `x + y`)."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})
