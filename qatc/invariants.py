"""Named facts about a graph. Passes require, ensure or break them, and never name one another."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import fx, nn

from qatc import ir
from qatc.modules.fused import Fused, FusedBatchNorm
from qatc.quantizers.base import Quantizer

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class Violation:
    """A node that breaks an invariant, and why."""

    node: fx.Node
    why: str


@dataclass(frozen=True)
class Invariant:
    """A fact that `check` tests: it yields the nodes for which it does not hold."""

    name: str
    meaning: str
    check: Callable[[fx.GraphModule], Iterator[Violation]]

    def __str__(self) -> str:
        return self.name


def _one_call_site(gm: fx.GraphModule) -> Iterator[Violation]:
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    for node, module in ir.module_calls(gm):
        if not isinstance(module, Quantizer) and not any(True for _ in module.buffers()):
            calls[str(node.target)].append(node)
    for path, nodes in calls.items():
        for node in nodes[1:]:
            yield Violation(node, f"module {path!r} is also called by %{nodes[0].name}")


def _no_inplace(gm: fx.GraphModule) -> Iterator[Violation]:
    for node, module in ir.module_calls(gm):
        if getattr(module, "inplace", False):
            yield Violation(node, "the module overwrites its input")


def _no_unfused_batch_norm(gm: fx.GraphModule) -> Iterator[Violation]:
    for node, module in ir.module_calls(gm):
        if isinstance(module, BATCH_NORMS) and not isinstance(module, FusedBatchNorm) and not ir.why_float(node):
            yield Violation(node, "a BatchNorm is neither fused, folded, nor reported as float")


def _bias_grids(gm: fx.GraphModule) -> Iterator[Violation]:
    for node, module in ir.module_calls(gm):
        if isinstance(module, Fused) and module.weight_quantizer is not None:
            source = ir.grid_source(node.args[0])
            if ir.referenced_module(node.kwargs.get("grid")) is not (None if source is None else ir.module_of(source)):
                yield Violation(node, "the bias does not lie on the grid of the tensor that the layer reads")


def _scales_are_pow2(gm: fx.GraphModule) -> Iterator[Violation]:
    for node, module in ir.module_calls(gm):
        for quantizer in (module, getattr(module, "weight_quantizer", None)):
            if isinstance(quantizer, Quantizer) and quantizer.spec.pow2 is None:
                yield Violation(node, "a scale is not a power of two")


ONE_CALL_SITE = Invariant(
    "one_call_site_per_module",
    "every module without running statistics is called once, so what is attached to it belongs to one tensor",
    _one_call_site,
)
NO_INPLACE = Invariant(
    "no_inplace_modules", "no module overwrites its input, so an edge of the graph is a value", _no_inplace
)
NO_UNFUSED_BATCH_NORM = Invariant(
    "no_unfused_batch_norm", "every BatchNorm is fused, folded by itself, or reported as float", _no_unfused_batch_norm
)
BIAS_GRIDS = Invariant(
    "bias_on_product_grid", "every quantized layer knows the grid of the tensor that it reads", _bias_grids
)
POW2_SCALES = Invariant("scales_are_pow2", "every scale is a power of two", _scales_are_pow2)

INVARIANTS = (ONE_CALL_SITE, NO_INPLACE, NO_UNFUSED_BATCH_NORM, BIAS_GRIDS, POW2_SCALES)
