"""Which ops give another form of a tensor's memory, surely or perhaps."""

from torch import fx, nn

from qatc import ir
from qatc.calls import call_name, is_size, is_tensor, may_be_tensor
from qatc.modules import ops


def viewed(node: fx.Node) -> fx.Node | None:
    """Return what the node's tensor may be another form of the memory of, or None; of a part of several, these."""
    whole = node.args[0] if node.args else None
    if not isinstance(whole, fx.Node):
        return None
    if node.op == "call_module":
        return whole if ir.module_of(node, (*SURE_VIEW_MODULES, *_PERHAPS_MODULES)) is not None else None
    if node.op not in ("call_function", "call_method") or is_size(node):
        return None
    if call_name(node) == "getitem":
        copies = any(is_tensor(n) for n in node.all_input_nodes[1:]) or isinstance(node.args[1], list)
        return whole if not copies and (call_name(whole) in PARTS or may_be_tensor(whole)) else None
    return whole if call_name(node) in SURE_VIEWS or call_name(node) in _PERHAPS_VIEWS else None


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
