"""Which ops give another form of a tensor's memory, surely or perhaps."""

from torch import fx, nn

from qatc import ir
from qatc.calls import call_name, is_size
from qatc.modules import ops


def viewed(node: fx.Node) -> fx.Node | None:
    """Return the tensor whose memory the node's tensor may be, or None; of a part of several, the whole tensor."""
    whole = node.args[0] if node.args else None
    if not isinstance(whole, fx.Node) or not is_view(node, whole):
        return None
    if call_name(node) == "getitem" and call_name(whole) in PARTS:
        return viewed(whole)
    return whole


def is_view(node: fx.Node, whole: fx.Node) -> bool:
    """Say whether the node's tensor may be another form of the memory of `whole`."""
    if node.args[:1] != (whole,):
        return False
    if node.op == "call_module":
        return ir.module_of(node, (*SURE_VIEW_MODULES, *_PERHAPS_MODULES)) is not None
    known = call_name(node) in SURE_VIEWS or call_name(node) in _PERHAPS_VIEWS or call_name(node) in PARTS
    return node.op in ("call_function", "call_method") and known and not is_size(node)


PARTS = frozenset({"chunk", "split", "split_with_sizes", "tensor_split", "unbind"})
TRANSPOSES = frozenset({"transpose", "swapaxes", "swapdims", "t"})
SURE_VIEWS = TRANSPOSES | PARTS | {
    "getitem", "narrow", "permute", "select", "squeeze", "unflatten", "unsqueeze", "view", "view_as",
}  # fmt: skip
# A view or a copy as the memory's layout or the types are; or a view whose part cannot be written back.
_PERHAPS_VIEWS = frozenset({
    "contiguous", "detach", "diagonal", "dropout", "expand", "expand_as", "flatten", "float", "getattr", "moveaxis",
    "movedim", "reshape", "reshape_as", "to", "type_as", "unfold",
})  # fmt: skip
SURE_VIEW_MODULES = (nn.Identity,)
_PERHAPS_MODULES = (
    nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd, ops.Reshape, ops.Permute, ops.Transpose, ops.Squeeze,
    ops.Unsqueeze, ops.Slice, ops.Select, ops.Narrow, ops.Split, ops.Chunk, ops.Expand, ops.Movedim,
)  # fmt: skip
