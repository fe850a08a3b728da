"""Empirical bias correction: what quantization shifts on average is taken out of each layer's bias."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc.api import float_mode
from qatc.batches import arguments_in
from qatc.errors import CalibrationError
from qatc.layers import Layer, layers_of, shared_tensors
from qatc.modules.fused import bn_factor
from qatc.prepared import PreparedModel, prepared_in
from qatc.recording import quantizers
from qatc.stepping import SteppedRun, evaluating

log = logging.getLogger("qatc")


@dataclass(frozen=True)
class CorrectedBias:
    """How far, on average, a layer's channels were off before: root mean square over channels, as a share of their own.

    `why` says why a layer was left as it was.
    """

    layer: str
    shift: float
    why: str = ""

    def __str__(self) -> str:
        return f"{self.layer}: {self.why or 'corrected,'} a mean shift of {self.shift:.2%}"


@torch.no_grad()
def correct_biases(
    model: nn.Module, batches: Iterable[Any], *, steps: int | None = None, progress: bool = True
) -> tuple[CorrectedBias, ...]:
    """Make the mean of every layer's output channels that of the float model, layer by layer (empirical form).

    The bias of each layer gets E[y] - E[y~], y being its output before the activation in the float model, y~ that of
    the quantized one whose earlier layers are corrected (Nagel et al., arXiv:1906.04721, section 4.2; their appendix D
    has the empirical form). Where there is a BatchNorm its running mean takes the correction: the deployed layer is the
    same, and a BatchNorm that trains on batch statistics, which never had the shift, does not get one now.

    Call it on a calibrated model. Every node is run on all batches before the next one is, and tensors that a later
    node reads are kept meanwhile, so give it few: some 500 images do.

    Args:
        model: a prepared and calibrated model; changed in place, its mode stays.
        batches: batches as for `qatc.calibrate`.
        steps: how many batches to take, all if None.
        progress: whether to show progress bars.

    Raises:
        CalibrationError: the model is not calibrated, or there was no batch.
        ConfigError: the model is not prepared, or a batch does not fit its arguments.

    """
    gm = prepared_in(model)
    missing = next((name for name, quantizer in quantizers(gm) if not quantizer.ready), None)
    if missing is not None:
        raise CalibrationError(f"{missing} has no range", remedy="run qatc.calibrate(model, batches) first")
    layers = {layer.node: layer for layer in layers_of(gm) if layer.module.weight_quantizer is not None}
    shared = shared_tensors(gm)
    given = arguments_in(batches, gm, steps, title="correct biases", progress=progress)
    bound = [arguments.bound(gm.forward) for arguments in given]
    if not bound:
        raise CalibrationError("there was no batch to correct biases with", remedy="pass a loader that yields batches")
    found = []
    with evaluating(gm):
        wanted = _float_means(gm, layers, bound)
        runs = [_Run(gm, values) for values in bound]
        for node in gm.graph.nodes:
            if node.op == "output":
                break
            if node in layers:
                found.append(_correct(layers[node], wanted[node], runs, shared))
            for run in runs:
                run.step(node)
    return tuple(found)


def _float_means(
    gm: PreparedModel, layers: Mapping[fx.Node, Layer], bound: list[dict[str, Any]]
) -> "dict[fx.Node, _Mean]":
    """Return the mean of each layer's output channels, before the activation, in the float model."""
    means = {node: _Mean(layer.module.output_axis) for node, layer in layers.items()}
    with float_mode(gm):
        for values in bound:
            run = _Run(gm, values)
            for node in gm.graph.nodes:
                if node.op == "output":
                    break
                if node in layers:
                    means[node].add(run.before_activation(layers[node]))
                run.step(node)
    return means


class _Run(SteppedRun):
    """One batch on its way through the graph; a layer's output can be had without its activation."""

    def before_activation(self, layer: Layer) -> Tensor:
        """Return what the layer gives with its activation left out; nothing is kept."""
        activation, layer.module.activation = layer.module.activation, None
        try:
            result: Tensor = self.run_node(layer.node)
        finally:
            layer.module.activation = activation
        return result


class _Mean:
    """The mean of each output channel over batches, in float64, and the mean of its squares."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.count = 0

    def add(self, y: Tensor) -> None:
        rows = y.double().movedim(self.axis, 0).flatten(1)
        self.total = self.total + rows.sum(1)
        self.squares = self.squares + rows.square().sum(1)
        self.count += rows.shape[1]

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.total) / self.count

    @property
    def magnitude(self) -> Tensor:
        return (torch.as_tensor(self.squares) / self.count).mean().sqrt()


def _correct(layer: Layer, wanted: _Mean, runs: list[_Run], shared: set[int]) -> CorrectedBias:
    """Correct one layer's bias, all before it being so."""
    found = _Mean(layer.module.output_axis)
    for run in runs:
        found.add(run.before_activation(layer))
    shift = wanted.mean - found.mean
    share = float(shift.square().mean().sqrt() / wanted.magnitude.clamp(min=torch.finfo(torch.float64).tiny))
    corrected = layer.module.bias if layer.bn is None else layer.bn.running_mean
    if corrected is None:
        return CorrectedBias(layer.name, share, "left, it has no bias:")
    if id(corrected) in shared:
        return CorrectedBias(layer.name, share, "left, its bias is that of another layer too:")
    folded = layer.folded()
    rounded = layer.module.deployed(folded, layer.grid)[1]
    if folded.bias is not None and rounded is not None:
        shift = shift + (rounded - folded.bias).double()  # else what rounding the old bias did would count twice
    if layer.bn is not None:
        factor = bn_factor(layer.bn).double()
        shift = torch.where(factor == 0, 0.0, -shift / factor.masked_fill(factor == 0, 1.0))
    corrected.add_(shift.to(corrected.dtype))
    return CorrectedBias(layer.name, share)
