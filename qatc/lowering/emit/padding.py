"""Zeros in front of convolutions become their own padding."""

from collections.abc import Iterable

import onnx_ir

from qatc.lowering.emit.builder import Value


def give_padding_to_convolutions(nodes: Iterable[onnx_ir.Node]) -> None:
    """Let every convolution behind a border of zeros read what is inside, and pad by itself."""
    for node in nodes:
        read = node.inputs[0] if node.op_type == "Conv" else None
        widths = None if read is None else _zeros_around(read)
        if widths is not None and read is not None:
            border = read.producer()
            assert border is not None
            node.replace_input_with(0, border.inputs[0])
            own = node.attributes.get_ints("pads", [0] * len(widths))
            node.attributes.add(onnx_ir.AttrInt64s("pads", [a + b for a, b in zip(own, widths, strict=True)]))


def _zeros_around(x: Value) -> list[int] | None:
    """Return the widths of zeros around the positions of [N, C, ...], or None where x is anything else."""
    node = x.producer()
    if node is None or node.op_type != "Pad" or len(node.inputs) != 2:
        return None
    given = None if node.inputs[1] is None else node.inputs[1].const_value
    if given is None or node.attributes.get_string("mode", "constant") != "constant":
        return None
    widths = given.numpy().tolist()
    rank = len(widths) // 2
    others = widths[:2] + widths[rank : rank + 2]
    return None if any(others) or min(widths) < 0 else widths[2:rank] + widths[rank + 2 :]
