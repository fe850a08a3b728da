"""Tensors between layers whose range is set by a few values far beyond their bulk."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.diagnosis.finding import Finding
from qatc.diagnosis.weights import OUTLIER_CREST
from qatc.quantizers import Quantizer


def activation_findings(gm: fx.GraphModule) -> Iterator[Finding]:
    """Yield the tensors with outliers, as they were while ranges were recorded."""
    for node in gm.graph.nodes:
        bulk = ir.bulk(node)
        if bulk is not None and bulk[0] > OUTLIER_CREST * bulk[1]:
            peak, root = bulk
            figure = f"reaches {peak:.3g}, {peak / root:.0f} times its root mean square"
            remedy = "a range that leaves them out (a learned one, or by least square error), or more activation_bits"
            yield Finding("outlying activations", str(node.target), ir.source_of(node).location, figure, remedy)


@contextmanager
def recording_bulk(gm: fx.GraphModule) -> Iterator[None]:
    """Note, at the end of the block, the greatest magnitude and the root mean square of each quantized tensor in it."""
    nodes: dict[str, list[fx.Node]] = {}
    for node, module in ir.module_calls(gm):
        if isinstance(module, Quantizer):
            nodes.setdefault(str(node.target), []).append(node)
    seen = {path: _Bulk() for path in nodes}
    hooks = [gm.get_submodule(path).register_forward_pre_hook(bulk.see) for path, bulk in seen.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for path, bulk in seen.items():
        if bulk.peaks:
            for node in nodes[path]:
                ir.set_bulk(node, bulk.result())


class _Bulk:
    """Greatest magnitude and mean square over batches; tensors, so that no batch waits for the device."""

    def __init__(self) -> None:
        self.peaks: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.count = 0

    def see(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach()
        if x.is_floating_point():
            self.peaks.append(torch.linalg.vector_norm(x, torch.inf, dtype=torch.float32))
            self.squares.append(torch.linalg.vector_norm(x, dtype=torch.float32).square())
            self.count += x.numel()

    def result(self) -> tuple[float, float]:
        return float(torch.stack(self.peaks).max()), float((torch.stack(self.squares).sum() / self.count).sqrt())
