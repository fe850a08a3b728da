"""Which module has which form in the file, and where to look for those of functions."""

from collections.abc import Mapping

from torch import nn

from qatc.lowering.emit.builder import DeclinedError, Form
from qatc.lowering.emit.elementwise import ELEMENTWISE
from qatc.lowering.emit.layers import LAYERS
from qatc.lowering.emit.norms import NORMS
from qatc.lowering.emit.parts import PARTS
from qatc.lowering.emit.pools import POOLS
from qatc.lowering.emit.resizes import RESIZES
from qatc.lowering.emit.shapes import SHAPES
from qatc.modules.fused_forms import behaves_like

MODULES: Mapping[type[nn.Module], Form] = {
    **ELEMENTWISE, **SHAPES, **PARTS, **NORMS, **POOLS, **RESIZES, **LAYERS,
}  # fmt: skip


def form_of(module: nn.Module) -> Form:
    """Return the form of a module; a subclass has that of its base if it computes nothing else.

    Raises `DeclinedError` for a module that is not in the table, or that has hooks.
    """
    base = next((kind for kind in type(module).__mro__ if kind in MODULES), None)
    if base is None or module._forward_hooks or module._forward_pre_hooks:
        raise DeclinedError
    if type(module) is not base and not behaves_like(base, module):
        raise DeclinedError
    return MODULES[base]
