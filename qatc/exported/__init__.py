"""Models that `torch.export.save` wrote (.pt2), read as data: no code of the file is run, none of its classes made.

`archive` reads the bytes, `program` the graph and `arguments` what its calls are given; `calls` names the public
function for each ATen op, `layers` gives weights back to layers of torch.nn, and `model` is the module that all of it
makes.
"""

from qatc.exported.archive import is_exported
from qatc.exported.model import ExportedModel, load_exported

__all__ = ["ExportedModel", "is_exported", "load_exported"]
