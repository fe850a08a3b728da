"""Weights that oscillate between two codes: watched, dampened, frozen."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qatc import ir
from qatc.errors import ConfigError
from qatc.grid import codes, dequantize, per_channel
from qatc.layers import Layer, layers_of, shared_tensors
from qatc.modules.fused import bn_factor
from qatc.oscillation.tracker import Tracker
from qatc.prepared import prepared_in

# As in Nagel et al., arXiv:2203.11086, and the code published with it (Qualcomm-AI-research/oscillations-qat): the
# moving averages' momentum, the widest weights that are watched, and the frequency above which a weight counts as
# oscillating in the paper's tables.
MOMENTUM = 0.01
MOST_BITS = 4
OSCILLATES = 0.005


@dataclass(frozen=True)
class LayerOscillation:
    """Shares of a layer's weights: those whose frequency of oscillation is above 0.005, and those that are frozen."""

    layer: str
    oscillating: float
    frozen: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.oscillating:.2%} oscillate, {self.frozen:.2%} frozen"


class Oscillation(nn.Module):
    """Watches the weights' codes while a prepared model trains, and on demand dampens or freezes those that oscillate.

    Near the boundary of two codes the straight-through gradient drives a weight back and forth between them for ever,
    which corrupts BatchNorm's statistics and keeps the weight from its optimum (Nagel et al., arXiv:2203.11086):

        oscillation = qatc.Oscillation(model, freeze_above=0.02)
        ...
        loss = task_loss + 1e-4 * oscillation.dampening()  # one of the two is enough
        loss.backward()
        optimizer.step()
        oscillation.step()

    Its state is in buffers: save its `state_dict()` beside the model's, and training resumes as if it had gone on. No
    call but `report` waits for the device. Weights that several layers share are left alone.

    Args:
        model: a prepared model, wrapped or not; wrap or move it first.
        momentum: of the moving averages.
        freeze_above: the frequency above which a weight is frozen, at least two to three times the momentum; None
            freezes none. It may be changed at any time: the paper anneals it downwards by a cosine.
        most_bits: the widest weights to watch.

    Raises:
        ConfigError: the model is not prepared, has no weights of so few bits, or a number is out of range; or weights
            are to be frozen that go through tanh (SAT).

    """

    def __init__(
        self,
        model: nn.Module,
        *,
        momentum: float = MOMENTUM,
        freeze_above: float | None = None,
        most_bits: int = MOST_BITS,
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ConfigError(f"a momentum of {momentum}", remedy="choose one above 0, up to 1; the paper has 0.01")
        self.momentum, self.freeze_above = momentum, freeze_above
        gm = prepared_in(model)
        shared = shared_tensors(gm)
        watched = [
            layer for layer in layers_of(gm) if _bits(layer) <= most_bits and id(layer.module.weight) not in shared
        ]
        if not watched:
            raise ConfigError(
                f"no layer has weights of its own of at most {most_bits} bits",
                remedy="raise most_bits, or leave it out",
            )
        self.trackers = nn.Module()
        self._watched: list[tuple[Layer, Tracker]] = []
        with torch.no_grad():
            for layer in watched:
                tracker = Tracker(_Codes(layer).own)
                ir.set_module(self.trackers, layer.name, tracker)
                self._watched.append((layer, tracker))
        self._check_freezing()

    def _check_freezing(self) -> None:
        squashed = [layer for layer, _ in self._watched if layer.squashes]
        if self.freeze_above is not None and squashed:
            raise ConfigError(
                "weights that go through tanh cannot be frozen at the value of their code",
                where=f"{squashed[0].name} ({squashed[0].location})",
                remedy="leave freeze_above out and add oscillation.dampening() to the loss",
            )

    @torch.no_grad()
    def step(self) -> None:
        """Take in the weights as the optimizer left them; put those that are frozen back on their codes.

        Raises:
            ConfigError: weights are to be frozen that go through tanh (SAT): none of them has its code's value.

        """
        self._check_freezing()
        for layer, tracker in self._watched:
            found = _Codes(layer)
            tracker.update(found.own, self.momentum, self.freeze_above)
            weight = layer.module.weight
            held = tracker.frozen & found.movable
            weight.copy_(torch.where(held, (tracker.mean * found.step).to(weight.dtype), weight))

    def dampening(self) -> Tensor:
        """Return the sum over all weights of (q(w) - clip(w))^2, w with BatchNorm folded in.

        The paper's dampening loss. It pulls weights to the middle of their bins; q(w) is a constant in it, and clipped
        weights feel nothing.
        """
        total: Tensor | None = None
        for layer, _ in self._watched:
            found = _Codes(layer)
            weight = found.weight
            clipped = torch.minimum(torch.maximum(weight, found.low.to(weight.dtype)), found.high.to(weight.dtype))
            loss = (found.quantized.to(weight.dtype) - clipped).square().sum()
            total = loss if total is None else total + loss
        assert total is not None
        return total

    def report(self) -> tuple[LayerOscillation, ...]:
        """Return how much oscillates and how much is frozen, by layer; it waits for the device."""
        return tuple(
            LayerOscillation(
                layer.name,
                float((tracker.frequency > OSCILLATES).float().mean()),
                float(tracker.frozen.float().mean()),
            )
            for layer, tracker in self._watched
        )


class _Codes:
    """The codes of a layer's folded weight, and those of its own weight, which do not see gamma's sign."""

    def __init__(self, layer: Layer) -> None:
        module, quantizer = layer.module, layer.module.weight_quantizer
        assert quantizer is not None
        folded, _, gain = layer.folded()
        spec = quantizer.spec
        with torch.no_grad():
            grid = quantizer.grid(folded.detach(), gain, None)
        self.weight = quantizer.values(folded, grid, gain)
        with torch.no_grad():
            plain = self.weight.detach()
            code = codes(plain, grid, spec)
            self.quantized = dequantize(code, grid, spec)
            self.low, self.high = (
                per_channel((limit - grid.zero_point) * grid.scale, plain, spec.axis)
                for limit in (spec.qmin, spec.qmax)
            )
            scale = per_channel(grid.scale, plain, spec.axis)
            if layer.bn is None:
                self.own, self.step, self.movable = code, scale, torch.ones_like(code, dtype=torch.bool)
            else:
                factor = module.over_weight(bn_factor(layer.bn), module.weight)
                self.own = code * factor.sign()
                self.movable = (factor != 0).expand_as(code)
                self.step = scale / factor.masked_fill(factor == 0, 1.0).abs()


def _bits(layer: Layer) -> int:
    quantizer = layer.module.weight_quantizer
    return 32 if quantizer is None else quantizer.spec.bits
