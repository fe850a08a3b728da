"""Which layers quantization hurts: each quantized alone, and a proposal of those to keep at more bits."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from tqdm import tqdm

from qatc import ir
from qatc.batches import arguments_in
from qatc.debugging.damage import DAMAGES, Damage, Divergence, Metric
from qatc.debugging.debug import as_deployed, check_calibrated
from qatc.debugging.proposal import COSTS, LayerDamage, Sensitivity, chosen
from qatc.errors import CalibrationError, ConfigError
from qatc.lowering.lower_modules import folded_of
from qatc.modules.fused import Fused
from qatc.modules.transposed import FusedConvTranspose
from qatc.nested import tensors
from qatc.prepared import PreparedModel, prepared_in
from qatc.quantizers import Quantizer
from qatc.recording import quantizers
from qatc.spec import QuantSpec
from qatc.stepping import evaluating

Enabled = frozenset[Quantizer]


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    metric: str | Metric = "sqnr",
    bits: int = 8,
    budget: float | None = None,
    cost: str = "weights",
    relief: bool = False,
    steps: int | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Order the layers with weights by the damage that quantizing each alone does, and propose which to keep.

    For each layer the model runs with its quantizers off, but for that layer's: of its weight, of what it reads, and of
    what it gives. It runs in eval mode, as it deploys; nothing in it changes. That is as many runs as there are layers,
    and with `relief` twice as many.

    Args:
        model: a prepared and calibrated model, wrapped or not.
        batches: batches as for `qatc.calibrate`; with a metric of your own only the first is looked at, for sizes.
        metric: what damage is: `sqnr`, the outputs' error power as a share of their own (1 / SQNR); `kl`, the
            divergence of the classes that the first output's logits, [N, classes, ...], stand for; or a function of
            the model that gives a figure which is better when greater, as an accuracy: what it loses against float.
        bits: what is proposed to keep layers at, weights and what they read.
        budget: the share of the cost, 0 to 1, that layers to be kept may have together; None proposes none.
        cost: of what: `weights` (so of their bytes), `macs` or `layers`.
        relief: whether also to measure how much damage goes where one layer alone is not quantized.
        steps: how many batches to take, all if None.
        progress: whether to show a progress bar.

    Raises:
        CalibrationError: the model is not calibrated, or there was no batch.
        ConfigError: the model is not prepared, a batch does not fit its arguments, or an argument is none of these.

    """
    gm = prepared_in(model)
    _check(metric, budget, cost)
    QuantSpec(bits=bits)
    check_calibrated(gm)
    layers = [layer for node in gm.graph.nodes if (layer := _layer_of(node)) is not None]
    if not layers:
        raise ConfigError("no layer has a quantized weight", remedy="see model.report for why")
    everything = frozenset(q for _, q in quantizers(gm) if q.enabled)
    trials = [everything, *(layer.own & everything for layer in layers)]
    if relief:
        trials += [everything - layer.own for layer in layers]
    with evaluating(gm), as_deployed(gm), _counting(layers) as sizes:
        if isinstance(metric, str):
            kind = DAMAGES[metric]
            found, name = _by_outputs(gm, batches, kind, trials, steps, progress), kind.name
        else:
            found, name = _by_metric(gm, model, batches, metric, trials, progress), _name_of(metric)
    whole, alone, without = found[0], found[1 : len(layers) + 1], found[len(layers) + 1 :]
    rows = tuple(
        layer.row(alone[i], whole - without[i] if relief else None, sizes[layer.node], bits)
        for i, layer in enumerate(layers)
    )
    ordered = tuple(sorted(rows, key=lambda row: math.inf if math.isnan(row.damage) else row.damage, reverse=True))
    kept = () if budget is None else chosen(ordered, budget, cost)
    return Sensitivity(ordered, whole, name, bits, budget, cost, kept)


def _check(metric: str | Metric, budget: float | None, cost: str) -> None:
    if isinstance(metric, str) and metric not in DAMAGES:
        raise ConfigError(f"metric {metric!r}", remedy=f"one of {', '.join(DAMAGES)}, or a function of the model")
    if cost not in COSTS:
        raise ConfigError(f"cost {cost!r}", remedy=f"one of {', '.join(COSTS)}")
    if budget is not None and not 0 <= budget <= 1:
        raise ConfigError(f"a budget of {budget}", remedy="a share from 0 to 1")


@dataclass(frozen=True)
class _Layer:
    """A layer with a quantized weight, and the quantizers of its weight, of what it reads and of what it gives."""

    node: fx.Node
    module: Fused
    weight: Quantizer
    inputs: tuple[Quantizer, ...]
    own: Enabled

    def row(self, damage: float, relief: float | None, results: int, bits: int) -> LayerDamage:
        """Return what was found; `results` is the number of values that it gives for one sample."""
        weights = folded_of(self.node, self.module).weight
        narrow = self.weight.spec.bits < bits or any(q.spec.bits < bits for q in self.inputs)
        return LayerDamage(
            str(self.node.target), ir.source_of(self.node).location, str(self.weight.spec),
            ", ".join(dict.fromkeys(str(q.spec) for q in self.inputs)), damage, relief,
            weights.numel(), results * (weights.numel() // max(weights.shape[0], 1)), narrow,
        )  # fmt: skip

    def values_per_sample(self, args: tuple[Any, ...], result: Tensor) -> int:
        """Return the number of values each of which takes a channel's weights: of a transposed layer those it reads."""
        x: Tensor = args[0] if isinstance(self.module, FusedConvTranspose) else result
        return x.numel() // max(x.shape[0], 1)


def _layer_of(node: fx.Node) -> _Layer | None:
    module = ir.module_of(node, Fused)
    if module is None or module.weight_quantizer is None:
        return None
    sources = map(ir.grid_source, ir.tensor_inputs(node))
    inputs = tuple(q for s in sources if (q := ir.module_of(s, Quantizer)) is not None)
    outputs = tuple(q for user in node.users if (q := ir.module_of(user, Quantizer)) is not None)
    return _Layer(
        node, module, module.weight_quantizer, inputs, frozenset((module.weight_quantizer, *inputs, *outputs))
    )


@contextmanager
def _counting(layers: Iterable[_Layer]) -> Iterator[dict[fx.Node, int]]:
    """Note how many values each layer gives for one sample."""
    sizes: dict[fx.Node, int] = {}

    def noting(layer: _Layer) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def note(_: nn.Module, args: tuple[Any, ...], result: Tensor) -> None:
            sizes[layer.node] = layer.values_per_sample(args, result)

        return note

    hooks = [layer.module.register_forward_hook(noting(layer)) for layer in layers]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def only(gm: PreparedModel, chosen: Enabled) -> Iterator[None]:
    """Let no other quantizers quantize inside the block."""
    before = [(q, q.enabled) for _, q in quantizers(gm)]
    for quantizer, _ in before:
        quantizer.enabled = quantizer in chosen
    try:
        yield
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled


def _by_outputs(
    gm: PreparedModel, batches: Iterable[Any], kind: type[Damage], trials: list[Enabled], steps: int | None,
    progress: bool,
) -> list[float]:  # fmt: skip
    sums = [kind() for _ in trials]
    count = 0
    for given in arguments_in(batches, gm, steps, title="sensitivity", progress=progress):

        def run(chosen: Enabled, args: tuple[Any, ...] = given.args, kwargs: Any = given.kwargs) -> list[Tensor]:
            with only(gm, chosen):
                return [t for _, t in tensors(gm.forward(*args, **kwargs)) if t.is_floating_point()]

        wanted = run(frozenset())
        _check_outputs(wanted, kind)
        for damage, trial in zip(sums, trials, strict=True):
            damage.add(wanted, run(trial))
        count += 1
    if not count:
        raise CalibrationError("there was no batch to run", remedy="pass a loader that yields batches")
    return [damage.result() for damage in sums]


def _check_outputs(found: list[Tensor], kind: type[Damage]) -> None:
    if not found or (kind is Divergence and found[0].dim() < 2):
        what = "no tensor of floats" if not found else f"a first output of {found[0].dim()} dimensions, no logits"
        raise ConfigError(f"the model gives {what}", remedy="pass a metric: a function of the model")


def _by_metric(
    gm: PreparedModel, model: nn.Module, batches: Iterable[Any], metric: Metric, trials: list[Enabled], progress: bool
) -> list[float]:
    given = next(iter(arguments_in(batches, gm, 1, title="sensitivity", progress=False)), None)
    if given is None:
        raise CalibrationError("there was no batch to run", remedy="pass a loader that yields batches")
    gm.forward(*given.args, **given.kwargs)
    found = []
    for trial in tqdm([frozenset(), *trials], "sensitivity", disable=None if progress else True):
        with only(gm, trial):
            found.append(float(metric(model)))
    return [found[0] - value for value in found[1:]]


def _name_of(metric: Metric) -> str:
    return f"loss of {getattr(metric, '__name__', type(metric).__name__)} against float"
