"""A graph as plain data: what its text says, node by node and part by part."""

from collections.abc import Mapping
from typing import Any

from torch import fx

from qatc import ir
from qatc.constants import constants
from qatc.prepared import PreparedModel
from qatc.printer import node_text, shown_nodes
from qatc.quantizers import Quantizer, representable

NodeData = dict[str, Any]
GraphData = dict[str, list[NodeData]]


def graph_data(gm: fx.GraphModule) -> GraphData:
    """Return `{"nodes": [...]}`, in graph order, of strings, numbers, booleans, lists and None.

    A node has
    - `name`, and `op`, what fx calls it (`placeholder`, `call_module`, ..., `output`);
    - `kind`, `type` (`f32[N,8,32,32]`, or None), `attributes`, `quant` and `text`: the parts of its line, and the line;
    - `inputs`: the names of the nodes that it reads; modules that it is given (BatchNorm, grid) are no nodes here;
    - `path`: of the module in the user's model; `file` and `line` (0 where unknown) of the call;
    - `why_float`: why it stays in float; `fused_into`: the path of the op that the target fuses it into;
    - `part_of`: the call that was taken apart into it and others;
    - `replaces`: the names of the nodes that passes took out, and whose place or work this one took over;
    - `range`: of a prepared model's quantizer that has one, the least and greatest value on its grid; else None;
    - `weight`: whether it is computed from parameters and constants alone.
    """
    constant, shown = constants(gm.graph), dict.fromkeys(shown_nodes(gm))
    # Whether there is a range is asked only where there may be: it takes as long as all the rest of a node.
    ranges = isinstance(gm, PreparedModel) and gm.prepared_for is not None
    return {"nodes": [_node_data(node, shown, node in constant, ranges) for node in shown]}


def text_of(graph: GraphData) -> str:
    """Return the text of the graph, as `qatc.printer.format_graph` gives it."""
    return "".join(f"{node['text']}\n" for node in graph["nodes"])


def _node_data(node: fx.Node, shown: Mapping[fx.Node, None], constant: bool, ranges: bool) -> NodeData:
    text, source = node_text(node), ir.source_of(node)
    quantizer = ir.module_of(node, Quantizer) if ranges and text.quant else None
    return {
        "name": node.name,
        "op": node.op,
        "kind": text.kind,
        "inputs": [read.name for read in node.all_input_nodes if read in shown],
        "text": text.line(),
        "type": text.type or None,
        "path": text.path,
        "file": source.file,
        "line": source.line,
        "attributes": text.attributes,
        "quant": text.quant,
        "why_float": ir.why_float(node),
        "fused_into": ir.fused_into(node),
        "part_of": ir.part_of(node),
        "replaces": list(ir.replaces(node)),
        "range": list(representable(quantizer)) if quantizer is not None and quantizer.ready else None,
        "weight": constant,
    }
