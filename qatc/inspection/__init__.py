"""What every pass did, to look at: graphs as text, JSON and GraphML, dumps of a run, and the history of a node."""

from qatc.inspection.dump_folder import DumpFolder, dumps_of
from qatc.inspection.graph_data import graph_data

__all__ = ["DumpFolder", "dumps_of", "graph_data"]
