"""Put quantizers where the target wants them: on weights, and on the tensors between layers."""

import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import fx

from qatc import ir
from qatc.calls import is_size, may_be_tensor
from qatc.config import Layer, LayerConfig, QConfig
from qatc.constants import constants
from qatc.dataflow import depths, ends, least_values, op_kind_of
from qatc.errors import ConfigError
from qatc.invariants import BIAS_GRIDS, NO_INPLACE, NO_UNFUSED_BATCH_NORM, ONE_CALL_SITE, Invariant
from qatc.masks import masks
from qatc.modules.batch_norms import BatchNorm, GivenBatchNorm
from qatc.modules.fused import FusedBatchNorm
from qatc.modules.fused_forms import FUSED_FORMS, fused_form
from qatc.modules.kinds import op_kind, output_range, pad_widths, takes_padding
from qatc.parts import put_together, take_apart
from qatc.pipeline import Pass
from qatc.quantizers import Given, Quantizer, activation_quantizer, weight_quantizer
from qatc.spec import PRODUCT_BITS, STES, QuantSpec, Ste
from qatc.targets import OpRule, Target
from qatc.weights import weight_to_quantize


@dataclass(frozen=True)
class InsertQuantizers(Pass):
    """Insert a quantizer behind every tensor that the target's table asks for, and one in every layer with weights.

    A tensor gets one quantizer, read by the ops that want a grid (by all, where the op that makes it wants one); its
    width is the widest that a reader asks for. Ops that only move values hand the grid on. What is computed from
    parameters alone gets none: the lowered file holds its value. Activations that the target has as two
    ops (`x * sigmoid(x)`) are written so first, since each has a grid; those that it has as one, as one.
    """

    target: Target
    config: QConfig

    name: ClassVar[str] = "insert-quantizers"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE, NO_INPLACE, NO_UNFUSED_BATCH_NORM)
    ensures: ClassVar[tuple[Invariant, ...]] = (BIAS_GRIDS,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        if any(isinstance(module, Quantizer) for module in gm.modules()):
            return False
        return _Placement(gm, self.target, self.config).run()

    @property
    def options(self) -> str:
        """The fields as text."""
        return f"target={self.target.name}"


class _Placement:
    """One run of the pass over one graph."""

    def __init__(self, gm: fx.GraphModule, target: Target, config: QConfig) -> None:
        self.gm, self.target = gm, target
        self.layers = config.resolve(list(self._layers()))
        self._as_the_target_has_them()
        self.constants = constants(gm.graph)
        self.least = least_values(gm.graph)
        self.depth = depths(gm.graph)
        self.masks = masks(gm.graph)
        self.rules = {node: self._rule(node) for node in gm.graph.nodes}
        self.rules |= {node: _TAKEN_IN for node in gm.graph.nodes if self._is_taken_in(node)}
        self.tails = {node: self._tail(node) for node in gm.graph.nodes}

    def run(self) -> bool:
        nodes = [n for n in self.gm.graph.nodes if n.op != "output" and ir.referenced_module(n) is None]
        for node in nodes:
            ir.set_moves_values(node, self.rules[node].output in MOVES)
        for node in nodes:
            if self.rules[node].output == "again" and ir.grid_source(node) is not None:
                self._insert_again(node)
                continue
            wanted = [reader for reader in node.users if self._reads_grid(reader, node)]
            everywhere = self._makes_grid(node)
            if (wanted or everywhere) and ir.grid_source(node) is None and _is_float(node):
                everyone = [reader for reader in node.users if node in ir.tensor_inputs(reader)]
                self._insert(node, everyone if everywhere else wanted)
        for node in nodes:
            if self.tails[node] is not node:
                ir.set_fused_into(self.tails[node], str(node.target))
        for node in nodes:
            if ir.fused_into(node):
                ir.set_why_float(node, "")
            elif self.rules[node].reason:
                ir.set_why_float(node, ir.why_float(node) or self.rules[node].reason)
            elif self.rules[node].inputs == "between" and not self._makes_grid(self.tails[node]):
                ir.set_why_float(node, "its result has no grid")
            elif self.rules[node].inputs == "skip" and self._raw_branch(node) is None:
                ir.set_why_float(node, "no quantized convolution in front takes the sum in")
            elif self._quantizes_weight(node):
                self._quantize_weight(node)
        number_sites(self.gm)
        ir.prune(self.gm)
        return True

    def _layers(self) -> Iterable[Layer]:
        first, last = ends(self.gm.graph)
        for node, module in ir.module_calls(self.gm):
            yield Layer(str(node.target), module, node in first, node in last, ir.source_of(node).path or None)

    def _as_the_target_has_them(self) -> None:
        """Write activations x * f(x) as one op or as two; what is asked of one is asked of both."""
        known = constants(self.gm.graph)
        for node in [n for n in self.gm.graph.nodes if op_kind_of(n) and n not in known]:
            config, kind = self.layers[str(node.target)], op_kind_of(node)
            if kind in self.target.parts and config.quantize:
                self.layers[str(take_apart(self.gm, node, kind).target)] = config
            elif kind == "Mul" and all(self._asked_of(n, config).quantize for n in (node, *ir.tensor_inputs(node))):
                any(put_together(self.gm, node, whole) for whole in sorted(self.target.wholes))

    def _asked_of(self, node: fx.Node, otherwise: LayerConfig) -> LayerConfig:
        return self.layers.get(str(node.target), otherwise)

    def _rule(self, node: fx.Node) -> OpRule:
        module = ir.module_of(node)
        if module is None or node in self.constants:
            return OpRule()
        if isinstance(module, tuple(FUSED_FORMS)) and fused_form(module) is None:
            return OpRule(reason=f"{type(module).__name__} computes in a way of its own")
        if isinstance(module, BatchNorm) and (module.running_var is None or not module.track_running_stats):
            return OpRule(reason="it has no running statistics (track_running_stats=False)")
        if isinstance(module, GivenBatchNorm):
            return OpRule(reason="its statistics are not those of one module, under BatchNorm's names")
        if not self.layers[str(node.target)].quantize:
            return OpRule(reason="excluded by a rule of the configuration")
        rule = self.target.rule(op_kind(module))
        if not rule.reason and (node in self.masks or any(n in self.masks for n in ir.tensor_inputs(node))):
            return OpRule(reason="a mask, or scores with a mask or a bias added: infinities fit no grid")
        if rule.inputs in ("quantized", "between") and any(_is_number(arg) for arg in node.args):
            return OpRule(reason="one of its operands is a number, which has no grid", grid=rule.grid)
        if rule.inputs == "any" or any(_is_float(n) for n in ir.tensor_inputs(node)):
            return rule
        return OpRule(reason="none of its inputs is a float tensor")

    def _is_taken_in(self, node: fx.Node) -> bool:
        """Say whether every reader of a pad is a quantized layer that takes it in."""
        module, into = ir.module_of(node), self.rules[node].into
        widths = () if module is None or node.kwargs else pad_widths(module)
        return bool(into and node.users) and all(
            op_kind_of(user) in into
            and self.rules[user].inputs == "quantized"
            and takes_padding(self.gm.get_submodule(str(user.target)), widths)
            for user in node.users
        )

    def _tail(self, node: fx.Node) -> fx.Node:
        """Return the activation that the target fuses behind the node, or the node."""
        fused = self.target.epilogues.get(op_kind_of(node), frozenset())
        reader = ir.only_user(node)
        return reader if reader is not None and op_kind_of(reader) in fused else node

    def _makes_grid(self, node: fx.Node) -> bool:
        """Say whether the node ends an op (with its activation) whose result is to lie on a grid at once."""
        heads = [h for h in (node, *node.all_input_nodes) if self.tails[h] is node]
        rules = [self.rules[head] for head in heads]
        ends = any(user.op == "output" for user in self._readers(node))
        if any(rule.output == "quantized" and (rule.final or not ends) for rule in rules):
            return True
        return any(rule.output == "wanted" for rule in rules) and self._is_wanted(node)

    def _is_wanted(self, tensor: fx.Node) -> bool:
        """Say whether an op that reads the tensor, seen through those that only move values, asks for a grid."""
        return any(
            self._is_wanted(user) if self.rules[user].output in MOVES else self._reads_grid(user, tensor)
            for user in tensor.users
        )

    def _reads_grid(self, reader: fx.Node, tensor: fx.Node) -> bool:
        rule = self.rules[reader]
        if tensor not in ir.tensor_inputs(reader) or reader is self.tails[tensor]:
            return False
        if rule.inputs == "skip":
            raw = self._raw_branch(reader)
            return raw is not None and tensor is not raw
        return rule.inputs == "quantized" or (rule.inputs == "between" and self._makes_grid(self.tails[reader]))

    def _raw_branch(self, add: fx.Node) -> fx.Node | None:
        """Return the input of a residual add that stays raw: the convolution that takes the sum in.

        Where both are such ops the longer path stays raw (the backbone): from the start, which is as from the nearest
        op that dominates both. Where neither is, the add is no epilogue.
        """
        inputs = ir.tensor_inputs(add)
        if len(inputs) != 2:
            return None
        raw = [n for n in inputs if self._fuses_sum(_behind_identities(n))]
        return max(raw, key=self.depth.__getitem__, default=None)

    def _fuses_sum(self, node: fx.Node) -> bool:
        """Say whether the op takes a sum in as its epilogue: a quantized convolution that nothing else reads.

        What is dropped in training does not come between the two: nothing is left of it in the file.
        """

        def alone(n: fx.Node) -> bool:
            return sum(not is_size(user) for user in n.users) == 1

        while op_kind_of(node) == "Identity" and alone(node):
            node = ir.tensor_inputs(node)[0]
        convolves = op_kind_of(node) == "Conv" and self.rules[node].inputs == "quantized"
        return convolves and alone(node) and getattr(ir.module_of(node), "activation", None) is None

    def _readers(self, node: fx.Node) -> list[fx.Node]:
        """Return the ops that read the tensor, seen through those that only move values."""
        found: list[fx.Node] = []
        for user in node.users:
            found += self._readers(user) if self.rules[user].output in MOVES else [user]
        return found

    def _insert_again(self, tensor: fx.Node) -> None:
        """Put the grid that the tensor lies on behind it once more, where anything wants a grid there."""
        source, readers = ir.grid_source(tensor), self._readers(tensor)
        assert source is not None
        ends = self.rules[tensor].final and any(reader.op == "output" for reader in readers)
        if ends or any(self.rules[reader].inputs != "any" for reader in readers):
            name = ir.free_path(self.gm, _quantizer_path(tensor))
            self._insert_call(tensor, str(source.target), name, list(tensor.users))

    def _insert(self, tensor: fx.Node, readers: list[fx.Node]) -> None:
        path = ir.free_path(self.gm, _quantizer_path(tensor))
        config = self._activation_config(tensor)
        spec = self._spec(tensor, config.activation_bits)
        self._check_width(tensor, spec.bits)
        fixed = next((grid for grid in self._made_by(tensor).fixed if grid.bits == spec.bits), None)
        quantizer = (
            activation_quantizer(config.activation_quantizer, spec, config.activation_range)
            if fixed is None
            else Given.of(spec, fixed.scale, fixed.zero_point, fixed.signed)
        )
        quantizer.ste = ste_of(config)
        ir.set_module(self.gm, path, quantizer.train(self.gm.training))
        self._insert_call(tensor, path, path, readers)

    def _insert_call(self, tensor: fx.Node, path: str, name: str, readers: list[fx.Node]) -> None:
        """Let the readers read the tensor on the grid of the quantizer at `path`; the call's own name is `name`."""
        call = ir.insert_module_call(self.gm, tensor, path, tensor)
        ir.set_source(call, replace(ir.source_of(tensor), path=name))
        self.rules[call] = OpRule()
        self.tails[call] = call
        for reader in readers:
            ir.replace_input(reader, tensor, call)

    def _spec(self, tensor: fx.Node, bits: int) -> QuantSpec:
        """Return the grid of the tensor that a node makes."""
        rule, module = self.target.activation, ir.module_of(tensor)
        _, high = (None if module is None else output_range(module)) or UNBOUNDED
        upper = high if rule.grid_within_clip and math.isfinite(high) else None
        needs = {self._made_by(tensor).grid, *(self.rules[n].grid for n in self._reached(tensor))}
        if _argument_path(tensor):
            needs.add(rule.network_input)
        never_negative = self.least[tensor] >= 0
        symmetric = rule.symmetric or bool(needs - {"any"})
        signed = rule.signed or "signed" in needs or (symmetric and not never_negative)
        return QuantSpec(bits, signed, symmetric or (never_negative and not signed), upper=upper)

    def _made_by(self, tensor: fx.Node) -> OpRule:
        """Return the rule of the op that makes the tensor: of the one that an activation is fused into."""
        head = next((n for n in tensor.all_input_nodes if self.tails[n] is tensor), tensor)
        return self.rules[head]

    def _reached(self, tensor: fx.Node) -> list[fx.Node]:
        """Return the ops that read the tensor, those that only move values and what reads their results included."""
        found: list[fx.Node] = []
        for user in tensor.users:
            found += [user, *(self._reached(user) if self.rules[user].output in MOVES else ())]
        return found

    def _activation_config(self, tensor: fx.Node) -> LayerConfig:
        """Return the settings of the reader that asks for the widest codes; of the op itself where none asks."""
        asking = [n for n in self._readers(tensor) if self.rules[n].inputs != "any"]
        readers = [self.layers[str(n.target)] for n in asking]
        own = self.layers.get(str(tensor.target), LayerConfig())
        return max(readers or [own], key=lambda config: config.activation_bits)

    def _quantizes_weight(self, node: fx.Node) -> bool:
        module = ir.module_of(node)
        return module is not None and self.rules[node].inputs == "quantized" and fused_form(module) is not None

    def _quantize_weight(self, node: fx.Node) -> None:
        path = str(node.target)
        module = fused_form(self.gm.get_submodule(path))
        assert module is not None
        config = self.layers[path]
        if isinstance(module, FusedBatchNorm):  # a factor per channel: exact at 8 bits, a step of its own cannot help
            config = replace(config, weight_bits=8, weight_quantizer="tracked", weight_range=None, per_channel=True)
        kind = op_kind(module)
        axis = module.weight_axis if config.per_channel and kind in self.target.weight.per_channel else None
        spec = QuantSpec(config.weight_bits, axis=axis, narrow=self.target.weight.narrow)
        source = ir.grid_source(node.args[0])
        grid = ir.module_of(source, Quantizer)
        self._check_width(node, spec.bits, 0 if grid is None else grid.spec.bits)
        weight = weight_to_quantize(self.gm, node, module, axis)
        quantizer = weight_quantizer(config.weight_quantizer, spec, weight, config.weight_range)
        if quantizer.folds_per_channel and axis is None and node.kwargs.get("bn") is not None:
            raise ConfigError(
                f"weight quantizer {config.weight_quantizer!r} in front of a BatchNorm needs a scale per channel",
                where=f"{path} ({ir.source_of(node).location})",
                remedy="set per_channel=True for this layer, or another weight_quantizer",
            )
        quantizer.ste = ste_of(config)
        module.weight_quantizer = quantizer.train(self.gm.training)
        ir.set_module(self.gm, path, module)
        if source is not None:
            node.kwargs = {**node.kwargs, "grid": ir.module_reference(self.gm, str(source.target), node)}

    def _check_width(self, node: fx.Node, bits: int, read: int = 0) -> None:
        """Refuse codes wider than the target's, and weights whose products with what they read are too wide."""
        where = f"{node.target} ({ir.source_of(node).location})"
        most = self.target.most_bits
        if bits > most:
            raise ConfigError(f"{self.target.name} has no codes of {bits} bits", where=where, remedy=f"ask for {most}")
        if bits + read > PRODUCT_BITS:
            raise ConfigError(
                f"weights of {bits} bits read activations of {read}: a bias of 32 bits does not reach far at the "
                "product of their scales, and float32 does not hold the product of their codes",
                where=where,
                remedy=f"ask for {PRODUCT_BITS} bits together, as 8 of the weight and 16 of what it reads",
            )


def ste_of(config: LayerConfig) -> Ste:
    """Return the straight-through estimator that is asked for."""
    return next(ste for ste in STES if ste == config.ste)


def number_sites(gm: fx.GraphModule) -> None:
    """Give every call of a quantizer that is called at several places a range of its own; the grid covers them all."""
    calls: dict[str, list[fx.Node]] = {}
    for node, module in ir.module_calls(gm):
        if isinstance(module, Quantizer):
            calls.setdefault(str(node.target), []).append(node)
    for path, nodes in calls.items():
        quantizer = gm.get_submodule(path)
        if len(nodes) > 1 and isinstance(quantizer, Quantizer):
            ir.set_module(gm, path, quantizer.with_spec(quantizer.spec, sites=len(nodes)).train(quantizer.training))
            for site, node in enumerate(nodes):
                node.args = (node.args[0], site)


MOVES = ("same", "again")
_TAKEN_IN = OpRule(inputs="quantized", output="same")
UNBOUNDED = (-math.inf, math.inf)


def _behind_identities(node: fx.Node) -> fx.Node:
    """Return what passes through dropouts and the like that are nothing in the file, and goes nowhere else."""
    while op_kind_of(node) == "Identity" and len(node.users) == 1 and len(ir.tensor_inputs(node)) == 1:
        (node,) = ir.tensor_inputs(node)
    return node


def _quantizer_path(tensor: fx.Node) -> str:
    if tensor.op in ("call_module", "get_attr"):
        return f"{tensor.target}_q"
    return f"{_argument_path(tensor) or _scoped_name(tensor)}_q"


def _argument_path(node: Any) -> str:
    """Return the path, joined by `_`, of an argument or of what is read from one; an empty text for any other node."""
    if not isinstance(node, fx.Node):
        return ""
    if node.op == "placeholder":
        return str(node.target).lstrip("*")
    if node.target not in (operator.getitem, getattr) or not isinstance(node.args[1], str | int):
        return ""
    container = _argument_path(node.args[0])
    return re.sub(r"\W", "_", f"{container}_{node.args[1]}") if container else ""


def _scoped_name(node: fx.Node) -> str:
    scope = ir.source_of(node).path
    return f"{scope}.{node.name}" if scope else node.name


def _is_float(node: fx.Node) -> bool:
    """Say whether the node gives a float tensor; where types are not known, whether it may."""
    kind = ir.tensor_type(node)
    return may_be_tensor(node) if kind is None else kind.dtype.is_floating_point


def _is_number(arg: Any) -> bool:
    return not may_be_tensor(arg) if isinstance(arg, fx.Node) else isinstance(arg, int | float)
