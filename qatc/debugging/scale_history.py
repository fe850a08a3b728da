"""How the scale of each quantizer moved while a model trained, in a bounded number of points."""

from typing import Any

import torch
from torch import Tensor, nn

from qatc import ir
from qatc.errors import ConfigError
from qatc.lowering.lower_modules import folded_of
from qatc.modules.fused import Fused
from qatc.prepared import prepared_in
from qatc.quantizers import Quantizer
from qatc.recording import quantizers

POINTS = 256
# [step, scale] points.
Curve = tuple[tuple[float, float], ...]


class ScaleHistory(nn.Module):
    """Keeps the scale of every quantizer now and then while a prepared model trains.

        history = qatc.ScaleHistory(model)
        ...
        optimizer.step()
        history.step()
        ...
        report = qatc.debug(model, batches, history=history)

    Its buffer holds at most `points` rows: when it is full, every second one is dropped and steps are taken half as
    often from then on, so it spans the whole of a run of any length. `step` never waits for the device. The
    `state_dict()` carries it over an interruption. Of a grid with a scale per channel the mean is kept.

    Args:
        model: a prepared model, wrapped or not; move it to its device first.
        every: how many steps lie between two that are kept, at first.
        points: the most rows, an even number.

    Raises:
        ConfigError: the model is not prepared, or a number is out of range.

    """

    scales: Tensor

    def __init__(self, model: nn.Module, *, every: int = 1, points: int = POINTS) -> None:
        super().__init__()
        if every < 1 or points < 2 or points % 2:
            raise ConfigError(
                f"every={every}, points={points}", remedy="choose every of at least 1, an even number of points"
            )
        gm = prepared_in(model)
        self._layers = {
            module.weight_quantizer: (node, module)
            for node, module in ir.module_calls(gm)
            if isinstance(module, Fused) and module.weight_quantizer is not None
        }
        self._found = list(quantizers(gm))
        device = next((p.device for p in gm.parameters()), torch.device("cpu"))
        self.register_buffer("scales", torch.full((points, len(self._found)), torch.nan, device=device))
        self.every, self.count, self.rows = every, 0, 0

    @torch.no_grad()
    def step(self) -> None:
        """Count a step, and keep the scales as they are now if it is one to be kept."""
        if self.count % self.every == 0:
            if self.rows == len(self.scales):
                self.rows //= 2
                self.scales[: self.rows] = self.scales[::2].clone()
                self.every *= 2
            if self.count % self.every == 0:
                self.scales[self.rows] = torch.stack([self._scale(q) for _, q in self._found])
                self.rows += 1
        self.count += 1

    def curves(self) -> dict[str, Curve]:
        """Return [step, scale] points by the name of each quantizer, without those from before it had a range."""
        kept = self.scales[: self.rows].cpu()
        return {
            name: tuple((float(i * self.every), v) for i, v in enumerate(kept[:, column].tolist()) if v == v)
            for column, (name, _) in enumerate(self._found)
        }

    def get_extra_state(self) -> dict[str, int]:
        """Return the counters."""
        return {"every": self.every, "count": self.count, "rows": self.rows}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the counters back."""
        self.every, self.count, self.rows = (int(state[name]) for name in ("every", "count", "rows"))

    def _scale(self, quantizer: Quantizer) -> Tensor:
        layer = self._layers.get(quantizer)
        if layer is None:
            return quantizer.grid(self.scales.new_empty(0), None, None).scale.detach().float().mean()
        weight, _, gain = folded_of(*layer)
        return quantizer.grid(weight.detach(), gain, None).scale.detach().float().mean()
