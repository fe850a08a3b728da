"""Oscillating weights (Nagel et al., arXiv:2203.11086): telemetry, a dampening loss, iterative freezing."""

from qatc.oscillation.oscillation import LayerOscillation, Oscillation
from qatc.oscillation.tracker import Tracker

__all__ = ["LayerOscillation", "Oscillation", "Tracker"]
