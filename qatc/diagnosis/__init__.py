"""What will cost a prepared model accuracy, and what to do about it, from its weights and recorded ranges alone."""

import torch
from torch import fx

from qatc.diagnosis.activations import activation_findings, recording_bulk
from qatc.diagnosis.batch_norms import batch_norm_findings
from qatc.diagnosis.finding import Finding
from qatc.diagnosis.weights import weight_findings


@torch.no_grad()
def diagnose(gm: fx.GraphModule) -> tuple[Finding, ...]:
    """Return every finding, those of BatchNorms first, then of weights, then of activations."""
    return (*batch_norm_findings(gm), *weight_findings(gm), *activation_findings(gm))


__all__ = ["Finding", "diagnose", "recording_bulk"]
