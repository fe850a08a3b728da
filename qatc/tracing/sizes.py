"""Sizes that stay symbols while the model's Python runs, and the decisions on them that its code forces."""

import itertools
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import sympy
import torch
from sympy import Symbol
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.reference import PythonReferenceAnalysis

from qatc.tracing.frames import is_framework, is_ours, outward, user_place

Dynamic = Callable[[Tensor, int], bool]


@dataclass(frozen=True)
class Decision:
    """A question on sizes that needed an answer.

    `direct`: by the model's own code, or by an op that takes a number there, not a size; others are checks inside ops.
    """

    expression: sympy.Basic
    answer: sympy.Basic
    file: str
    line: int
    direct: bool


class TooManyDecisionsError(BaseException):
    """The model decides on sizes again and again; an exception that no handler of the model's code catches."""


class NothingOpenError(BaseException):
    """The model decided on every size but the batch: the rest of the run would be as if they had been numbers."""

    def __init__(self, sizes: "Sizes") -> None:
        super().__init__()
        self.sizes = sizes


class Sizes(ShapeEnv):
    """The symbols of one tracing, which also notes every question that only the example's sizes could answer."""

    def __init__(self, most_decisions: float = math.inf, *, watched: bool = False) -> None:
        """`watched`: whether to stop when a decision leaves no size open but the batch."""
        super().__init__(specialize_zero_one=True, duck_shape=False)
        self.most_decisions, self.watched = most_decisions, watched
        self.asserting = False
        self.decisions: list[Decision] = []
        self.names: dict[Symbol, str] = {}  # `x.shape[2]`
        self.batch: set[Symbol] = set()

    def evaluate_expr(self, orig_expr: sympy.Basic, *args: Any, **kwargs: Any) -> sympy.Basic:
        """Answer as torch does, and note a question that was not answered by what is known of all sizes."""
        known = len(self.guards)
        answer = super().evaluate_expr(orig_expr, *args, **kwargs)
        if len(self.guards) > known:
            outside = next((f for f in outward(sys._getframe(1)) if not is_framework(f.f_code.co_filename)), None)
            direct = self.asserting or (outside is not None and not is_ours(outside.f_code.co_filename))
            direct = direct or _wants_number(sys._getframe(1))
            self.decisions.append(Decision(orig_expr, answer, *user_place("run"), direct))
            if len(self.decisions) > self.most_decisions:
                raise TooManyDecisionsError
            if self.watched and all(self.replace(symbol).is_number for symbol in self.names.keys() - self.batch):
                raise NothingOpenError(self)
        return answer

    def name_sizes(self, tensor: Tensor, name: str, is_batch: bool) -> list[tuple[Symbol, int]]:
        """Remember what the symbols of an input are called; return each symbol with its dimension."""
        found = []
        for dim, size in enumerate(tensor.shape):
            expression = self.expression(size)
            if isinstance(expression, Symbol):
                self.names.setdefault(expression, f"{name}.shape[{dim}]")
                if dim == 0 and is_batch:
                    self.batch.add(expression)
                found.append((expression, dim))
        return found

    def expression(self, size: Any) -> sympy.Basic:
        """Return a size as an expression in what is not decided yet."""
        if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
            replaced: sympy.Basic = self.replace(size.node.expr)
            return replaced
        return sympy.sympify(size)

    def number(self, expression: sympy.Basic) -> int:
        """Return the example's value of an expression."""
        return int(expression.xreplace(self.values()))

    def example(self, value: Any) -> Any:
        """Return the example's number for a size, anything else as it is."""
        if isinstance(value, torch.SymInt):
            return self.number(self.expression(value))
        return float(self.expression(value).xreplace(self.values())) if isinstance(value, torch.SymFloat) else value

    def values(self) -> dict[Symbol, Any]:
        """Return the example's value of every symbol."""
        known: dict[Symbol, Any] = vars(self)[
            "backed_var_to_val" if "backed_var_to_val" in vars(self) else "var_to_val"
        ]
        return known

    def follows_batch(self, expression: sympy.Basic) -> bool:
        """Say whether a size changes with the batch."""
        roots = {self.replace(symbol) for symbol in self.batch}
        return bool(expression.free_symbols & set().union(*(root.free_symbols for root in roots)))

    def fixed_batch(self) -> str:
        """Return where the code fixed the batch, or an empty text."""
        if not any(self.replace(symbol).is_Integer for symbol in self.batch):
            return ""
        blamed = [d for d in self.decisions if d.expression.free_symbols & self.batch] or self.decisions
        last = blamed[-1] if blamed else None
        return f"{last.file}:{last.line}" if last and last.file else "an op"

    def specialised(self) -> tuple[str, ...]:
        """Return a line for each decision that the model's own code forced."""
        lines = []
        for d in self.decisions:
            names = sorted(self.names[s] for s in d.expression.free_symbols if s in self.names)
            equal_inputs = isinstance(d.expression, sympy.Eq) and all(a in self.names for a in d.expression.args)
            if d.direct and names and not equal_inputs:
                answer = {sympy.true: "yes", sympy.false: "no"}.get(d.answer, str(d.answer))
                place = f" at {d.file}:{d.line}" if d.file else ""
                lines.append(f"specialised on {', '.join(names)}{place}: {self.text(d.expression)} is {answer}")
        return tuple(dict.fromkeys(lines))

    def text(self, expression: sympy.Basic) -> str:
        """Return an expression as Python, in the names of the inputs' sizes."""
        names = {str(symbol): name for symbol, name in self.names.items()}
        printed = PythonPrinter().doprint(expression)
        return re.sub(r"\b[a-z]+\d+\b", lambda found: names.get(found[0], found[0]), printed)


def _wants_number(frame: FrameType) -> bool:
    """Say whether torch itself turns a size into a number, since an op takes no size there (a pool's kernel)."""
    inner = (
        f.f_code.co_name for f in itertools.takewhile(lambda f: is_framework(f.f_code.co_filename), outward(frame))
    )
    return "guard_int" in inner


def symbolic(sizes: Sizes, fake_mode: Any, tensor: Tensor, dynamic: list[bool]) -> Tensor:
    """Return a fake tensor with a symbol for every dimension that is dynamic."""
    kinds = [DimDynamic.DYNAMIC if d else DimDynamic.STATIC for d in dynamic]
    fake: Tensor = fake_mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))
    return fake


class _Python(PythonReferenceAnalysis):
    """Python's own arithmetic, in which a whole number needs no conversion before it meets a fraction."""

    @staticmethod
    def to_dtype(x: Any, dtype: torch.dtype) -> Any:
        """Return the number itself."""
        return x

    @staticmethod
    def int_truediv(a: Any, b: Any) -> Any:
        """Return the fraction."""
        return a / b

    @staticmethod
    def floor_to_int(x: Any, dtype: torch.dtype) -> Any:
        """Return the whole number below."""
        return _called(math.floor, x)

    @staticmethod
    def ceil_to_int(x: Any, dtype: torch.dtype) -> Any:
        """Return the whole number above."""
        return _called(math.ceil, x)

    @staticmethod
    def round_to_int(a: Any, dtype: torch.dtype) -> Any:
        """Return the nearest whole number."""
        return _called(round, a)


def _called(function: Callable[[Any], Any], x: Any) -> Any:
    return x.tracer.create_proxy("call_function", function, (x,), {}) if isinstance(x, fx.Proxy) else function(x)


def emit(expression: sympy.Basic, size_node: Callable[[Symbol], fx.Node]) -> Any:
    """Return nodes that compute an expression of sizes; a number where it is one."""
    if expression.is_Integer:
        return int(expression)
    if expression.is_number:
        return float(expression)
    proxies = {symbol: fx.Proxy(size_node(symbol)) for symbol in sorted(expression.free_symbols, key=str)}
    result = sympy_interp(_Python, proxies, expression)
    return result.node if isinstance(result, fx.Proxy) else result
