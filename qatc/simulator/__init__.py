"""The reference simulator: what integer hardware computes of a QDQ file, in numpy."""

from qatc.simulator.numerics import Numerics
from qatc.simulator.run import run

__all__ = ["Numerics", "run"]
