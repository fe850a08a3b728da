"""What every pass did, to look at: graphs as text, JSON and GraphML, dumps of a run, and the history of a node."""

from qatc.inspection.dump_folder import MANIFEST, DumpFolder, dumps_of
from qatc.inspection.formats import FORMATS, as_graphml, as_json
from qatc.inspection.graph_data import GraphData, NodeData, graph_data
from qatc.inspection.guilty_pass import Parting, first_parting
from qatc.inspection.history import NodeHistory, histories
from qatc.inspection.print_passes import PrintPasses

__all__ = [
    "FORMATS", "MANIFEST", "DumpFolder", "GraphData", "NodeData", "NodeHistory", "Parting", "PrintPasses", "as_graphml",
    "as_json", "dumps_of", "first_parting", "graph_data", "histories",
]  # fmt: skip
