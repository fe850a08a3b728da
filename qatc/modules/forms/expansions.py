"""Which call is taken apart by which function: a table, read by the pass decompose-composites."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from qatc.modules.forms import attention, composites
from qatc.modules.forms.einsum import einsum
from qatc.modules.forms.form import names


@dataclass(frozen=True)
class Expansion:
    """Calls of these targets, and the function of the same signature that says what they are made of."""

    name: str
    targets: tuple[Any, ...]
    function: Callable[..., Any]


EXPANSIONS: tuple[Expansion, ...] = (
    Expansion("attention", (F.scaled_dot_product_attention,), attention.scaled_dot_product_attention),
    Expansion("einsum", names("einsum"), einsum),
    Expansion("add", names("add"), composites.add),
    Expansion("sub", names("sub", "subtract"), composites.sub),
    Expansion("rsub", (*names("rsub"), "__rsub__"), composites.rsub),
    Expansion("addcmul", names("addcmul"), composites.addcmul),
    Expansion("addcdiv", names("addcdiv"), composites.addcdiv),
    Expansion("lerp", names("lerp"), composites.lerp),
    Expansion("baddbmm", names("baddbmm"), composites.baddbmm),
    Expansion("stack", names("stack"), composites.stack),
    Expansion("hstack", names("hstack"), composites.hstack),
    Expansion("vstack", names("vstack", "row_stack"), composites.vstack),
    Expansion("t", names("t"), composites.transposed),
    Expansion("T", (getattr,), composites.read_attribute),
    Expansion("reshape_as", ("reshape_as", "view_as"), composites.reshaped_as),
    Expansion("float", ("float",), composites.floating),
    Expansion("take_along_dim", names("take_along_dim"), composites.take_along_dim),
    Expansion("max", (torch.max, "max"), composites.greater),
    Expansion("min", (torch.min, "min"), composites.lesser),
)
