"""Checkpoints: a prepared model as tensors and plain data, and back without running anything that a file says.

`plain` writes values, `settings` configurations and targets, `module_data` modules, `graph_data` the graph, `file` the
whole; `names` is the one place that decides what a name in a file may stand for.
"""

from qatc.checkpoint.file import load, save
from qatc.checkpoint.pickling import pickled, unpickled

__all__ = ["load", "pickled", "save", "unpickled"]
