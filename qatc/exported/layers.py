"""Weights back in layers: `aten.conv2d` on `body.conv.weight` is a call of a Conv2d at `body.conv` again.

So a model that comes as a .pt2 file has the layers, and the names that a configuration's rules match, of the model that
was exported. What has no layer of its own (a weight by another name, or one read in two ways) stays a function with
the weight among its arguments, which the passes know too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qatc.exported.arguments import Ref
from qatc.exported.program import Program, Step


@dataclass(frozen=True)
class Kind:
    """How the calls of an op become a layer: the op's arguments in order, and how to build it from some of them."""

    arguments: tuple[str, ...]
    build: Callable[[Step, dict[str, Any]], nn.Module | None]
    members: tuple[str, ...] = ("weight", "bias")


def layers_in(program: Program, tensors: Mapping[str, Tensor]) -> dict[str, tuple[nn.Module, tuple[Step, ...]]]:
    """Return a layer by its path in the model, and the steps that it stands for: its calls, and what counts them."""
    names = {**program.parameters, **program.buffers}
    owned: dict[str, list[str]] = {}
    for name in names.values():
        owned.setdefault(name.rpartition(".")[0], []).append(name.rpartition(".")[2])
    callers: dict[str, list[Step]] = {}
    for step in program.steps:
        for path in {names[r].rpartition(".")[0] for r in step.refs if r in names}:
            callers.setdefault(path, []).append(step)
    found = {}
    for path, steps in callers.items():
        inner = any(other.startswith(f"{path}.") for other in owned)
        if not path or inner or not set(owned[path]) <= _STATE:
            continue
        calls = [(step, bound) for step in steps if (bound := _bound(step, names, path)) is not None]
        if not calls:
            continue
        first, given = calls[0]
        alike = [step for step, bound in calls if bound == given]
        counting = [step for step in steps if _counts(step, names)]
        own = {key: tensors[f"{path}.{key}"] if value == _OWN else value for key, value in given.items()}
        layer = KINDS[_name(first)].build(first, own)
        if layer is not None:
            found[path] = (layer, (*alike, *counting))
    return found


_OWN = "its own"
_STATE = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


def is_counting(step: Step, program: Program) -> bool:
    """Say whether the step adds to a BatchNorm's counter, as in train mode."""
    return _counts(step, program.buffers)


def _counts(step: Step, names: Mapping[str, str]) -> bool:
    first = step.args[0] if step.args else None
    counter = isinstance(first, Ref) and names.get(first.name, "").endswith("num_batches_tracked")
    return counter and _name(step) == "add_"


def _name(step: Step) -> str:
    return step.op.split(".")[1] if step.op.startswith("aten.") else ""


def _bound(step: Step, names: Mapping[str, str], path: str) -> dict[str, Any] | None:
    """Return the arguments but the data, with `_OWN` for members of `path` by their names; None if it is no layer."""
    kind = KINDS.get(_name(step))
    if kind is None or step.kwargs or len(step.args) > len(kind.arguments) or step.is_list:
        return None
    given = dict(zip(kind.arguments, step.args, strict=False))
    if not isinstance(given.pop(kind.arguments[0]), Ref):
        return None
    for key in kind.members:
        value = given.get(key)
        if isinstance(value, Ref):
            if names.get(value.name) != f"{path}.{key}":
                return None
            given[key] = _OWN
    if any(isinstance(value, Ref) for value in given.values()) or (given.get("weight") is None and "eps" not in given):
        return None
    return given


def _conv(kind: type[nn.Module], transposed: bool) -> Callable[[Step, dict[str, Any]], nn.Module | None]:
    def build(step: Step, given: dict[str, Any]) -> nn.Module | None:
        weight, groups = given.pop("weight"), given.pop("groups", 1)
        bias = given.pop("bias", None)
        first, second = weight.shape[0], weight.shape[1] * groups
        channels = (first, second) if transposed else (second, first)
        given.pop("_", None)
        layer = kind(*channels, tuple(weight.shape[2:]), groups=groups, bias=bias is not None, device="meta", **given)
        return _with(layer, weight=weight, bias=bias)

    return build


def _linear(step: Step, given: dict[str, Any]) -> nn.Module | None:
    weight, bias = given["weight"], given.get("bias")
    if weight.dim() != 2:
        return None
    return _with(nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta"), weight=weight, bias=bias)


def _batch_norm(step: Step, given: dict[str, Any]) -> nn.Module | None:
    weight, bias, mean, var = (given[key] for key in ("weight", "bias", "running_mean", "running_var"))
    kind = _BATCH_NORMS.get(step.rank or 0)
    if kind is None or (weight is None) != (bias is None) or (mean is None) != (var is None):
        return None
    size = next((t.shape[0] for t in (weight, mean) if t is not None), 0)
    layer = kind(size, given["eps"], given["momentum"], weight is not None, mean is not None, device="cpu")
    layer = _with(layer, weight=weight, bias=bias)
    if mean is not None:
        layer._buffers.update(running_mean=mean, running_var=var)
    return layer


def _with(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """Give a layer its tensors as parameters; what the program keeps as a buffer is one that does not train."""
    for name, tensor in tensors.items():
        if tensor is not None:
            trains = isinstance(tensor, nn.Parameter)
            setattr(layer, name, tensor if trains else nn.Parameter(tensor, requires_grad=False))
    return layer


_BATCH_NORMS: Mapping[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_CONV: Sequence[str] = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED: Sequence[str] = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_STATISTICS = ("weight", "bias", "running_mean", "running_var")

KINDS: Mapping[str, Kind] = {
    **{f"conv{n}d": Kind(tuple(_CONV), _conv(getattr(nn, f"Conv{n}d"), False)) for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": Kind(tuple(_TRANSPOSED), _conv(getattr(nn, f"ConvTranspose{n}d"), True))
        for n in (1, 2, 3)
    },
    "linear": Kind(("input", "weight", "bias"), _linear),
    "batch_norm": Kind(
        ("input", *_STATISTICS, "training", "momentum", "eps", "cudnn_enabled"), _batch_norm, _STATISTICS
    ),
}
