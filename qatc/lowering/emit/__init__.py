"""From the lowered graph to the nodes of the file: each call by the table, what is not in it by torch's exporter."""

from qatc.lowering.emit.graph import emitted

__all__ = ["emitted"]
