"""One HTML page of what every pass did: graphs before and after, as text and as a drawing, and each node's history."""

from qatc.view.dump import MEASURED, Dump, Step, read_folder
from qatc.view.measured import Histogram, Measured, measured_json
from qatc.view.page import page_of
from qatc.view.saved_model import read_model

__all__ = ["MEASURED", "Dump", "Histogram", "Measured", "Step", "measured_json", "page_of", "read_folder", "read_model"]
