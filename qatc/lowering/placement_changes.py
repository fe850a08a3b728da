"""What another target would move in a model that was prepared: tensor by tensor, for the one and for the other."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from qatc import ir
from qatc.modules.fused import Fused, FusedBatchNorm
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer

NONE = "none"


@dataclass(frozen=True)
class PlacementChange:
    """A tensor that is quantized otherwise, or a bias that is written otherwise: `conv1 output`, `u8`, `none`."""

    tensor: str
    before: str
    after: str


def placement_changes(before: PreparedModel, after: PreparedModel) -> tuple[PlacementChange, ...]:
    """Return what differs between two placements of one model, in the order of its graph."""
    old, new = dict(_placement(before)), dict(_placement(after))
    order = {node.name: position for position, node in enumerate(before.graph.nodes)}
    places = sorted(old | new, key=lambda place: (order[place[0]], place[1]))
    rows = (PlacementChange(place[1], old.get(place, NONE), new.get(place, NONE)) for place in places)
    return tuple(row for row in rows if row.before != row.after)


def _placement(gm: PreparedModel) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the grid of each tensor that has one of its own, and the form of each bias, by node and name."""
    assert gm.prepared_for is not None
    for node, module in ir.module_calls(gm):
        if isinstance(module, Quantizer):
            tensor = node.args[0]
            assert isinstance(tensor, fx.Node)
            yield (tensor.name, _tensor(tensor)), f"{module.spec} shared" if module.sites > 1 else str(module.spec)
        elif isinstance(module, Fused) and module.weight_quantizer is not None:
            yield (node.name, f"{node.target} weight"), str(module.weight_quantizer.spec)
            if _has_bias(node, module):
                int32 = gm.prepared_for.target.file.bias == "int32" and node.kwargs.get("grid") is not None
                yield (node.name, f"{node.target} bias"), "int32" if int32 else "float"


def _tensor(node: fx.Node) -> str:
    return f"input {node.target}" if node.op == "placeholder" else f"{_name(node)} output"


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _has_bias(node: fx.Node, module: Fused) -> bool:
    given = "bias" in ir.given_tensors(node) or node.kwargs.get("bn") is not None
    return given or module.bias is not None or isinstance(module, FusedBatchNorm)


def table(changes: tuple[PlacementChange, ...], before: str, after: str) -> str:
    """Return the changes as text, a line each below the targets' names."""
    rows = [("tensor", f"for {before}", f"for {after}"), *((c.tensor, c.before, c.after) for c in changes)]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
