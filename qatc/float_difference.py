"""How far a prepared model with its quantizers off is from the original: outputs, gradients and statistics.

Evaluated as it is, at two batch sizes; trained for one step in float64 where both models run in it, since float32 hides
errors of a hundredth of a percent behind its own rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qatc.arguments import Arguments, batch_size, grown
from qatc.copies import copied
from qatc.nested import map_tensors, tensors
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer

# Of an output's spread: reordered float32 sums of some hundred layers stay below a tenth of it.
EVAL_TOLERANCE = 1e-4
# Of an output's, a gradient's or a buffer's scale, after one step of training.
TRAIN_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
# An output is never taken for smaller than this share of its magnitude: rounding is relative to that.
_LEAST_SPREAD = 0.04
# Nor a gradient for smaller than this share of the largest: of a bias before a BatchNorm there is only noise.
_LEAST_GRADIENT = 1e-3


@dataclass(frozen=True)
class Deviation:
    """One thing that is not the original's: by how much, as a share of its scale, or else in words."""

    what: str
    found: float
    allowed: float
    words: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.words or f'is off by {self.found:.2g} of its scale, {self.allowed:.0e} allowed'}"


@dataclass(frozen=True)
class FloatDifference:
    """The greatest differences, as shares of scale, and what is beyond the tolerance.

    `eval` is of the outputs in eval mode; `train` of outputs and statistics, `gradients` of gradients after a step in
    training mode, in `dtype`; `skipped` says what the original itself cannot do.
    """

    eval: float
    train: float
    gradients: float
    dtype: torch.dtype | None
    deviations: tuple[Deviation, ...]
    skipped: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not self.deviations


def float_difference(
    original: nn.Module,
    prepared: nn.Module,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    train: bool = True,
) -> FloatDifference:
    """Compare a prepared model with the original on these arguments; neither model is changed.

    Outputs in eval mode may differ by `EVAL_TOLERANCE` of their spread (greatest less least value), on the arguments
    and, if the original runs on it, on a batch of one row more. For training the loss is the sum of the outputs, each
    element weighted by a fixed random number; BatchNorms use batch statistics; every random draw (dropout, stochastic
    depth) begins at the same seed, so that it only depends on its own op and shape; `train=False` leaves it out. NaN
    and infinity must stand at the same places.
    """
    given = Arguments(tuple(inputs), dict(kwargs or {}))
    comparison = _Comparison(original, prepared)
    with _restored_draws(original):
        comparison.evaluate(given, "in eval mode")
        comparison.evaluate(grown(given), f"in eval mode with a batch of {(batch_size(given) or 0) + 1}")
        if train:
            comparison.train(given if (batch_size(given) or 2) > 1 else grown(given))
    return comparison.result()


class _Comparison:
    """Runs both models in each mode and collects what differs."""

    def __init__(self, original: nn.Module, prepared: nn.Module) -> None:
        self.original, self.prepared = original, prepared
        self.worst = {"eval": 0.0, "train": 0.0, "gradients": 0.0}
        self.dtype: torch.dtype | None = None
        self.deviations: list[Deviation] = []
        self.skipped: list[str] = []

    def result(self) -> FloatDifference:
        return FloatDifference(**self.worst, dtype=self.dtype, deviations=(*self.deviations,), skipped=(*self.skipped,))

    def evaluate(self, given: Arguments, where: str) -> None:
        with torch.no_grad():
            expected = _attempt(lambda: _outputs(_float_copy(self.original).eval(), given))
            if isinstance(expected, Exception):
                self.skipped.append(f"{where}: the original {_raised(expected)}")
                return
            actual = _attempt(lambda: _outputs(_float_copy(self.prepared).eval(), _for(self, given)))
        self._compare_outputs("eval", actual, expected, where, EVAL_TOLERANCE)

    def train(self, given: Arguments) -> None:
        for dtype in TRAIN_TOLERANCE:
            with _default(dtype):
                expected = _attempt(lambda: _Step(self.original, given, dtype))  # noqa: B023  (called at once)
                actual = _attempt(lambda: _Step(self.prepared, _for(self, given), dtype))  # noqa: B023
            if isinstance(expected, _Step) and isinstance(actual, _Step):
                break
        self.dtype = dtype
        if isinstance(expected, Exception):
            self.skipped.append(f"in train mode: the original {_raised(expected)}")
        elif isinstance(actual, Exception):
            self._add(Deviation("the prepared model", torch.inf, 0, f"{_raised(actual)} in train mode"))
        else:
            tolerance = TRAIN_TOLERANCE[dtype]
            self._compare_outputs("train", actual.outputs, expected.outputs, "in train mode", tolerance)
            if len(actual.outputs) == len(expected.outputs):  # of other outputs it is another loss
                self._compare_gradients(actual, expected, tolerance)
            self._compare_buffers(actual, expected, tolerance)

    def _compare_outputs(self, mode: str, actual: Any, expected: Any, where: str, tolerance: float) -> None:
        if isinstance(actual, Exception):
            self._add(Deviation("the prepared model", torch.inf, 0, f"{_raised(actual)} {where}"))
            return
        if len(actual) != len(expected):
            words = f"are {len(actual)} tensors, the original's {len(expected)}"
            self._add(Deviation(f"the outputs {where}", torch.inf, 0, words))
            return
        for (name, theirs), (_, ours) in zip(expected, actual, strict=True):
            finite = theirs.detach()[torch.isfinite(theirs)].double()
            spread = float(finite.max() - finite.min()) if finite.numel() else 0.0
            scale = max(spread, _LEAST_SPREAD * _magnitude(theirs))
            what = f"output {name!r} {where}" if name else f"the output {where}"
            self._compare(mode, what, ours, theirs, scale, tolerance)

    def _compare_gradients(self, actual: "_Step", expected: "_Step", tolerance: float) -> None:
        largest = max((_magnitude(g) for g in expected.gradients.values() if g is not None), default=0.0)
        for name in expected.parameters:
            theirs = expected.gradients[name]
            ours = _find(actual.gradients, name)
            if theirs is not None and ours is not None:
                scale = max(_magnitude(theirs), _LEAST_GRADIENT * largest)
                self._compare("gradients", f"the gradient of {name!r}", ours, theirs, scale, tolerance)
            elif theirs is not None:
                self._add(Deviation(f"the parameter {name!r}", torch.inf, 0, "gets no gradient any more"))
            elif ours is not None and _magnitude(ours):
                self._add(Deviation(f"the parameter {name!r}", torch.inf, 0, "gets a gradient that it had not"))

    def _compare_buffers(self, actual: "_Step", expected: "_Step", tolerance: float) -> None:
        for name, theirs in expected.moved.items():
            ours = _find(actual.buffers, name)
            if ours is None:
                self._add(Deviation(f"the buffer {name!r}", torch.inf, 0, "is not updated any more"))
            else:
                self._compare("train", f"the buffer {name!r} after a step", ours, theirs, _magnitude(theirs), tolerance)

    def _compare(self, mode: str, what: str, ours: Tensor, theirs: Tensor, scale: float, tolerance: float) -> None:
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            words = f"is {_kind(ours)}, the original's {_kind(theirs)}"
            self._add(Deviation(what, torch.inf, 0, words))
            return
        ours, theirs = ours.detach().double(), theirs.detach().double()
        finite = torch.isfinite(theirs)
        same = torch.equal(torch.nan_to_num(ours)[~finite], torch.nan_to_num(theirs)[~finite])
        if not same or not torch.equal(ours.isnan(), theirs.isnan()) or not torch.equal(torch.isfinite(ours), finite):
            self._add(Deviation(what, torch.inf, 0, "has NaN or infinity at other places"))
            return
        difference = _magnitude(ours[finite] - theirs[finite])
        share = difference / scale if scale > 0 else (torch.inf if difference else 0.0)
        self.worst[mode] = max(self.worst[mode], share)
        if share > tolerance:
            self._add(Deviation(what, share, tolerance))

    def _add(self, deviation: Deviation) -> None:
        self.deviations.append(deviation)


class _Step:
    """What one step of training leaves behind: outputs, gradients and buffers, by name."""

    def __init__(self, model: nn.Module, given: Arguments, dtype: torch.dtype) -> None:
        model = _float_copy(model).to(dtype).train()
        model.zero_grad(set_to_none=True)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        given = map_tensors(lambda x: x.to(dtype) if x.is_floating_point() else x, given)
        with _SameDraws():
            self.outputs = tensors(model(*_fresh(given).args, **_fresh(given).kwargs))
            terms = [(x * _weights(x, seed)).sum() for seed, (_, x) in enumerate(self.outputs) if x.grad_fn is not None]
            if terms:
                torch.stack(terms).sum().backward()
        self.parameters = [name for name, _ in model.named_parameters()]  # a shared one under its first name
        self.gradients = {name: p.grad for name, p in model.named_parameters(remove_duplicate=False)}
        self.buffers = dict(model.named_buffers(remove_duplicate=False))
        own = model.named_buffers()
        self.moved = {name: b for name, b in own if name in before and not _equal(b, before[name])}


class _SameDraws(TorchDispatchMode):
    """Begins every random draw at the same seed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            torch.manual_seed(0)
        return func(*args, **(kwargs or {}))


@contextmanager
def _restored_draws(model: nn.Module) -> Iterator[None]:
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(sorted(index for index in devices if index is not None)):
        yield


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Let what a model makes of no dtype be of this one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _float_copy(model: nn.Module) -> nn.Module:
    twin = copied(model)
    for module in twin.modules():
        if isinstance(module, Quantizer):
            module.enabled = module.observing = False
    return twin


def _for(comparison: _Comparison, given: Arguments) -> Arguments:
    """Return the arguments that the prepared model has: one that held no tensor may be gone."""
    if not isinstance(comparison.prepared, PreparedModel):
        return given
    names = {str(n.target).lstrip("*") for n in comparison.prepared.graph.nodes if n.op == "placeholder"}
    values = given.bound(comparison.original.forward)
    return given if set(values) <= names else Arguments((), {n: v for n, v in values.items() if n in names})


def _attempt(run: Any) -> Any:
    """Return what `run` gives, or what it raises."""
    try:
        return run()
    except Exception as error:  # whatever the user's model raises
        return error


def _outputs(model: nn.Module, given: Arguments) -> list[tuple[str, Tensor]]:
    given = _fresh(given)
    with _SameDraws():
        return tensors(model(*given.args, **given.kwargs))


def _fresh(given: Arguments) -> Arguments:
    """Return arguments of their own: the model may overwrite them."""
    copied: Arguments = map_tensors(lambda x: x.detach().clone(), given)
    return copied


def _weights(x: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def _find(members: Mapping[str, Tensor | None], name: str) -> Tensor | None:
    """Return the member of that name, or of the name that tracing gave it where a graph module has its own."""
    first, dot, rest = name.partition(".")
    return members.get(name, members.get(f"{first}_{dot}{rest}"))


def _magnitude(x: Tensor) -> float:
    finite = x.detach()[torch.isfinite(x)]
    return float(finite.double().abs().max()) if finite.numel() else 0.0


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def _kind(x: Tensor) -> str:
    return f"{x.dtype}{list(x.shape)}".removeprefix("torch.")


def _raised(error: Exception) -> str:
    return f"raises {type(error).__name__}: {(str(error).strip() or '(no text)').splitlines()[0]}"
