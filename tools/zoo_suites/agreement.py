"""Whether two forms of a model are one function: outputs in eval, gradients and statistics in training."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qatc.nested import map_tensors, tensors
from tools.zoo_suites.entry import Inputs
from tools.zoo_suites.expectation import Expectation
from tools.zoo_suites.reasons import Disagreement
from tools.zoo_suites.weights import call

# A parameter's names: tied ones have several.
Names = tuple[str, ...]
# Of an output's greatest value less its least, as float sums in another order part by less; and of its greatest, where
# all values are nearly one.
OUTPUT_TOLERANCE, ROUNDING = 1e-4, 4 * torch.finfo(torch.float32).eps
# Of a gradient's greatest value, and of the greatest of all: a bias before a BatchNorm has noise for a gradient.
GRADIENT_TOLERANCE, GRADIENT_NOISE = 1e-2, 1e-4


def outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors that the model gives in eval mode, by their place in its result."""
    with torch.no_grad():
        result = call(model.eval(), copied(inputs))
    return dict(tensors(result))


def copied(inputs: Inputs) -> Any:
    """Return inputs that a model may overwrite."""
    return map_tensors(Tensor.clone, inputs)


def check_outputs(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise `Disagreement` unless all tensors agree, floats to `OUTPUT_TOLERANCE` of their spread."""
    if list(expected) != list(found):
        raise Disagreement(f"outputs {_listed(found)} instead of {_listed(expected)}")
    for name, tensor in expected.items():
        what = f"output {name}" if name else "the output"
        other = found[name]
        if (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
            raise Disagreement(f"{what} is {_type(other)} instead of {_type(tensor)}")
        if tensor.numel() == 0 or torch.equal(tensor, other):
            continue
        if not tensor.is_floating_point():
            raise Disagreement(f"{what} has {int((tensor != other).sum())} other values of {tensor.numel()}")
        spread, greatest = float(tensor.max() - tensor.min()), float(tensor.abs().max())
        apart = float((tensor - other).abs().max())
        if not apart <= OUTPUT_TOLERANCE * spread + ROUNDING * greatest:
            raise Disagreement(f"{what} parts by {apart:.1e}, its values spread over {spread:.1e}")


def check_same_bits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise `Disagreement` unless all tensors are equal."""
    if list(expected) != list(found):
        raise Disagreement(f"outputs {_listed(found)} instead of {_listed(expected)}")
    for name, tensor in expected.items():
        if not torch.equal(tensor, found[name]):
            raise Disagreement(f"output {name} has other bits".replace("  ", " "))


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(name or "(one tensor)" for name in names) or "none"


def _type(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


class Step:
    """What one step of training without chance does to a model: loss, gradients and statistics by name, draws made.

    The model's own state stays as it was.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
        modes = {module: module.training for module in model.modules()}
        try:
            with Expectation() as chance:
                result = call(model.train(), copied(inputs))
                self.draws = chance.drawn
                self.loss = loss_of(result)
                self.loss.backward()
            self.gradients = taken_gradients(model)
            self.buffers = {name: b.clone() for name, b in model.named_buffers() if not torch.equal(b, kept[name])}
        finally:
            for module, mode in modes.items():
                module.training = mode
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(kept[name])


def loss_of(result: Any, seed: int = 7) -> Tensor:
    """Return a number that every float tensor of a model's result has a part in."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        (t.float() * torch.randn(t.shape, generator=generator)).mean()
        for _, t in tensors(result)
        if t.is_floating_point() and t.requires_grad
    ]
    if not parts:
        raise Disagreement("no output has a gradient")
    return torch.stack(parts).sum()


def taken_gradients(model: nn.Module) -> dict[Names, Tensor]:
    """Return the gradients that parameters have, by all of their names, and leave them without."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    found = {tuple(known): p.grad for p, known in names.items() if p.grad is not None}
    for parameter in names:
        parameter.grad = None
    return found


def matched(reached: Iterable[Names], found: Mapping[Names, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of these parameters by their first names; raise `Disagreement` if one has none."""
    by_name = {name: gradient for names, gradient in found.items() for name in names}
    gradients = {names[0]: next((by_name[n] for n in names if n in by_name), None) for names in reached}
    missing = [name for name, gradient in gradients.items() if gradient is None]
    if missing:
        raise Disagreement(f"{len(missing)} parameters without a gradient: {', '.join(missing[:3])}")
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def check_step(expected: Step, found: Step) -> None:
    """Raise `Disagreement` unless the same gradients reach the same parameters, and statistics move alike."""
    if expected.draws != found.draws:
        raise Disagreement(f"in training it draws {_draws(found.draws)} instead of {_draws(expected.draws)}")
    others = matched(expected.gradients, found.gradients)
    greatest = max((float(g.abs().max()) for g in expected.gradients.values() if g.numel()), default=0.0)
    for (name, *_), gradient in expected.gradients.items():
        apart = float((gradient - others[name]).abs().max()) if gradient.numel() else 0.0
        size = float(gradient.abs().max()) if gradient.numel() else 0.0
        if not apart <= GRADIENT_TOLERANCE * size + GRADIENT_NOISE * greatest:
            raise Disagreement(f"the gradient of {name} parts by {apart:.1e}, its greatest value is {size:.1e}")
    for name, buffer in expected.buffers.items():
        if name not in found.buffers:
            raise Disagreement(f"{name} does not move in training")
        if not torch.allclose(buffer.float(), found.buffers[name].float(), rtol=1e-2, atol=1e-4):
            raise Disagreement(f"{name} moves otherwise in training")


def _draws(counts: Mapping[str, int]) -> str:
    found = [f"{count} x {kind}" for kind, count in sorted(counts.items())]
    more = sum(count for _, count in sorted(counts.items())[3:])
    return ", ".join(found[:3] + ([f"{more} others"] if more else [])) or "nothing"
