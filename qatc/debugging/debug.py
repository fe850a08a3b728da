"""Where a quantized model parts from itself in float: both run in step, node by node, and compared at each tensor."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.batches import arguments_in
from qatc.debugging.figures import Agreement
from qatc.debugging.report import DebugReport, DebugRow
from qatc.debugging.scale_history import Curve, ScaleHistory
from qatc.debugging.statistics import GridUse, Sums
from qatc.errors import CalibrationError
from qatc.grid import dequantize
from qatc.lowering.lower_modules import folded_of, grid_of
from qatc.modules.fused import Fused
from qatc.nested import tensors
from qatc.prepared import PreparedModel, prepared_in
from qatc.quantizers import Quantizer
from qatc.recording import quantizers
from qatc.stepping import SteppedRun, evaluating


@torch.no_grad()
def debug(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int | None = None,
    progress: bool = True,
    history: ScaleHistory | None = None,
) -> DebugReport:
    """Return, for every quantized tensor and weight, what quantizing it does to the model on data.

    The model runs twice in step, with its quantizers and without (`qatc.float_mode`), in eval mode and as it deploys,
    whatever stage a schedule is at; each layer with a quantized weight once more without its own. Places are ordered by
    the error that they add themselves: the power of the difference that quantizing this place alone makes to its
    tensor, the errors before it being there, as a share of the power of that tensor in float. So a place that only
    passes on errors from before it does not come first.

    Sums are kept on the model's device, of a size that does not grow with the data; of one batch, those tensors that a
    later node reads are there, twice.

    Args:
        model: a prepared and calibrated model, wrapped or not; nothing in it changes.
        batches: batches as for `qatc.calibrate`.
        steps: how many batches to take, all if None.
        progress: whether to show a progress bar.
        history: what recorded the scales while the model trained; they become curves of the report.

    Raises:
        CalibrationError: the model is not calibrated, a range is not finite, or there was no batch.
        ConfigError: the model is not prepared, or a batch does not fit its arguments.

    """
    gm = prepared_in(model)
    check_calibrated(gm)
    count = 0
    outputs = Sums()
    points = {} if history is None else history.curves()
    curves = {quantizer: points.get(name, ()) for name, quantizer in quantizers(gm)}
    with evaluating(gm), as_deployed(gm):
        places = {node: place for node in gm.graph.nodes if (place := _place_of(node)) is not None}
        switches = {node: _quantizers_at(node) for node in gm.graph.nodes}
        for given in arguments_in(batches, gm, steps, title="debug", progress=progress):
            values = given.bound(gm.forward)
            plain, quantized = SteppedRun(gm, values), SteppedRun(gm, values)
            for node in gm.graph.nodes:
                with switched_off(switches[node]):
                    plain.env[node] = plain.run_node(node)
                quantized.env[node] = quantized.run_node(node)
                if node in places:
                    places[node].see(plain, quantized, switches[node])
                if node.op == "output":
                    _add_outputs(outputs, plain.env[node], quantized.env[node])
                plain.drop(node)
                quantized.drop(node)
            count += 1
        if not count:
            raise CalibrationError("there was no batch to debug with", remedy="pass a loader that yields batches")
        rows = [place.row(curves) for place in places.values()]
    return DebugReport(tuple(sorted(rows, key=lambda row: -row.rank)), outputs.result(), count)


def _add_outputs(sums: Sums, wanted: Any, found: Any) -> None:
    for (_, x), (_, y) in zip(tensors(wanted), tensors(found), strict=True):
        if x.is_floating_point():
            sums.add(x, y)


class _Place:
    """A node where something is quantized, and what was summed up of it."""

    kind = ""

    def __init__(self, node: fx.Node, quantizer: Quantizer) -> None:
        self.node, self.quantizer = node, quantizer
        self.accumulated, self.without, self.added = Sums(), Sums(), Sums()

    def compare(self, wanted: Tensor, without: Tensor, found: Tensor) -> None:
        """Take in the node's tensor: in the float run, without what is quantized here, in the quantized run."""
        self.accumulated.add(wanted, found)
        self.without.add(wanted, without)
        self.added.add(without, found)

    def see(self, plain: SteppedRun, quantized: SteppedRun, own: Sequence[Quantizer]) -> None:
        """Take in one batch, the node's results being there."""
        raise NotImplementedError

    def local(self) -> Agreement:
        """Return how what is quantized here is against what it is made from."""
        raise NotImplementedError

    def use(self) -> GridUse:
        """Return how it uses its grid."""
        raise NotImplementedError

    def row(self, curves: Mapping[Quantizer, Curve]) -> DebugRow:
        """Return what was found."""
        source = ir.source_of(self.node)
        accumulated, added = self.accumulated.result(), self.added.result()
        added = Agreement(accumulated.power, added.error, added.cosine)
        return DebugRow(
            self.node.name, self.kind, source.path or str(self.node.target), source.location, str(self.quantizer.spec),
            self.local(), accumulated, self.without.result(), added, self.use().result(), scales=curves[self.quantizer],
        )  # fmt: skip


class _Activation(_Place):
    """A quantizer between layers."""

    kind = "activation"

    def __init__(self, node: fx.Node, quantizer: Quantizer) -> None:
        super().__init__(node, quantizer)
        self._use = GridUse(quantizer.spec, quantizer.checked_grid(torch.empty(0)))

    def see(self, plain: SteppedRun, quantized: SteppedRun, own: Sequence[Quantizer]) -> None:
        x, y = quantized.env[self.node.args[0]], quantized.env[self.node]  # type: ignore[index]
        self.compare(plain.env[self.node], x, y)
        self._use.add(self.quantizer.values(x, self._use.grid, None))

    def local(self) -> Agreement:
        return self.added.result()

    def use(self) -> GridUse:
        return self._use


class _Weight(_Place):
    """A layer with a quantized weight; what it adds includes its bias, which is on the grid of weight and input."""

    kind = "weight"

    def __init__(self, node: fx.Node, layer: Fused, quantizer: Quantizer) -> None:
        super().__init__(node, quantizer)
        weight, bias, gain = folded_of(node, layer)
        grid = quantizer.checked_grid(weight, gain, layer.least_scale(bias, grid_of(node)))
        self._use = GridUse(quantizer.spec, grid)
        self._use.add(quantizer.values(weight, grid, gain))
        self._local = Sums()
        self._local.add(weight, dequantize(quantizer.codes_on(grid, weight, gain), grid, quantizer.spec))

    def see(self, plain: SteppedRun, quantized: SteppedRun, own: Sequence[Quantizer]) -> None:
        with switched_off(own):
            without = quantized.run_node(self.node)
        self.compare(plain.env[self.node], without, quantized.env[self.node])

    def local(self) -> Agreement:
        return self._local.result()

    def use(self) -> GridUse:
        return self._use


def _place_of(node: fx.Node) -> _Place | None:
    module = ir.module_of(node)
    if isinstance(module, Quantizer) and module.quantizes:
        return _Activation(node, module)
    if isinstance(module, Fused) and module.weight_quantizer is not None and module.weight_quantizer.quantizes:
        return _Weight(node, module, module.weight_quantizer)
    return None


def _quantizers_at(node: fx.Node) -> tuple[Quantizer, ...]:
    """Return the quantizers that the node's call uses: its module's own, and those that it is given."""
    modules = (ir.module_of(node), *map(ir.referenced_module, node.all_input_nodes))
    return tuple(q for module in modules if module is not None for q in module.modules() if isinstance(q, Quantizer))


@contextmanager
def switched_off(found: Iterable[Quantizer]) -> Iterator[None]:
    """Let these quantizers pass values through inside the block."""
    before = [(quantizer, quantizer.enabled) for quantizer in found]
    for quantizer, _ in before:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer, enabled in reversed(before):
            quantizer.enabled = enabled


@contextmanager
def as_deployed(gm: PreparedModel) -> Iterator[None]:
    """Let every quantizer quantize inside the block, whatever stage a schedule is at."""
    before = [(quantizer, quantizer.stage) for _, quantizer in quantizers(gm)]
    for quantizer, _ in before:
        quantizer.stage = "quantize"
    try:
        yield
    finally:
        for quantizer, stage in before:
            quantizer.stage = stage


def check_calibrated(gm: PreparedModel) -> None:
    """Raise a `CalibrationError` where a quantizer has no range."""
    missing = next((name for name, quantizer in quantizers(gm) if not quantizer.ready), None)
    if missing is not None:
        raise CalibrationError(f"{missing} has no range", remedy="run qatc.calibrate(model, batches) first")
