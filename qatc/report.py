"""What is quantized and what is not: a row for every op of a prepared model."""

from collections import Counter
from dataclasses import dataclass

from torch import fx

from qatc import ir
from qatc.constants import constants
from qatc.diagnosis import Finding, diagnose
from qatc.modules.kinds import op_kind
from qatc.quantizers import Quantizer


@dataclass(frozen=True)
class ReportRow:
    """One op: its name, the ONNX operator it becomes, its grids (empty where float), why it is float, and its place.

    The place is `file.py:12`, where the user's code calls it; `part_of` is the call that was taken apart into this op
    and others.
    """

    name: str
    kind: str
    weight: str
    inputs: str
    output: str
    reason: str
    place: str = ""
    part_of: str = ""

    @property
    def quantized(self) -> bool:
        """Whether the op computes on codes."""
        return not self.reason


@dataclass(frozen=True)
class Report:
    """The rows in graph order; `print` shows them as a table, `summary` as one line.

    `notes` are of the whole graph: what could not be traced, and what tracing decided by the example inputs.
    `findings` are what will cost accuracy (`qatc.diagnosis`): the table names them, `diagnosis` has them whole.
    """

    rows: tuple[ReportRow, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def summary(self) -> str:
        """One line: how many ops are quantized, and what is left in float and why."""
        quantized = [row for row in self.rows if row.quantized]
        weighted = sum(bool(row.weight) for row in quantized)
        text = f"{len(quantized)} of {len(self.rows)} ops quantized ({weighted} with weights)"
        left = Counter(row.kind for row in self.rows if not row.quantized)
        floats = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in left.most_common())
        return f"{text}; float: {floats}" if floats else text

    @property
    def diagnosis(self) -> str:
        """Every finding with its figure and remedy, as text."""
        return "\n".join(map(str, self.findings)) or "nothing found"

    def __str__(self) -> str:
        head = ("op", "kind", "weight", "inputs", "output", "why float")
        table = [head] + [(r.name, r.kind, r.weight, r.inputs, r.output, r.reason) for r in self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *notes, *self._found(), self.summary])

    def _found(self) -> list[str]:
        """Return a line for each kind of finding, and where the rest is."""
        by_kind: dict[str, list[str]] = {}
        for finding in self.findings:
            by_kind.setdefault(finding.kind, []).append(finding.layer)
        lines = [f"found: {kind} at {_named(layers)}" for kind, layers in by_kind.items()]
        return [*lines, "print(model.report.diagnosis) has figures and remedies"] if lines else []


def _named(layers: list[str], most: int = 3) -> str:
    shown = ", ".join(layers[:most])
    return shown if len(layers) <= most else f"{shown} and {len(layers) - most} more"


def make_report(gm: fx.GraphModule) -> Report:
    """Return the report of a graph as it is now."""
    known = constants(gm.graph)  # what they compute is in the lowered file as a value
    rows = tuple(_row(node) for node in gm.graph.nodes if node not in known and _is_op(node))
    return Report(rows, ir.notes(gm), diagnose(gm))


def _is_op(node: fx.Node) -> bool:
    if node.op == "call_module":
        return ir.module_of(node, Quantizer) is None
    return node.op in ("call_function", "call_method") and bool(ir.why_float(node))


def _row(node: fx.Node) -> ReportRow:
    module = ir.module_of(node)
    weight = getattr(module, "weight_quantizer", None)
    inputs = _grids(node)
    reason = _float_reason(node)
    name = str(node.target) if module is not None else str(ir.source_of(node))
    return ReportRow(
        name=name,
        kind=op_kind(module) if module is not None else str(getattr(node.target, "__name__", node.target)),
        weight="" if weight is None else str(weight.spec),
        inputs=", ".join(dict.fromkeys(inputs)) if any(inputs) else "",
        output="" if reason else ", ".join(dict.fromkeys(filter(None, map(_own_grid, node.users)))),
        reason=reason,
        place=ir.source_of(node).location,
        part_of=ir.part_of(node),
    )


def _grids(node: fx.Node) -> list[str]:
    sources = map(ir.grid_source, ir.tensor_inputs(node))
    return ["float" if source is None else _own_grid(source) for source in sources]


def _own_grid(node: fx.Node) -> str:
    quantizer = ir.module_of(node, Quantizer)
    return "" if quantizer is None else str(quantizer.spec)


def _float_reason(node: fx.Node) -> str:
    if ir.fused_into(node):  # it is what the op that it is fused into is
        return _float_reason(ir.tensor_inputs(node)[0])
    if ir.why_float(node):
        return ir.why_float(node)
    inputs = _grids(node)
    return "none of its inputs is on a grid" if inputs and set(inputs) == {"float"} else ""
