"""Arithmetic in all writings, reductions and matrix products."""

import operator
from functools import partial

from qatc.modules import ops
from qatc.modules.forms.form import Form, names, no_parameters, only
from qatc.modules.ops.arithmetic import UNARY

_OTHER_NAMES = {"abs": ("abs", "absolute"), "neg": ("neg", "negative")}
_OPERATORS = {"abs": (operator.abs, abs), "neg": (operator.neg,)}
_REDUCED = {"dim": None, "keepdim": False}

ARITHMETIC: tuple[Form, ...] = (
    Form("add", (*names("add"), operator.add, operator.iadd), only(ops.Add, alpha=1), {"alpha": 1}, tensors=2),
    Form("sub", (*names("sub", "subtract"), operator.sub, operator.isub), only(ops.Sub, alpha=1), {"alpha": 1},
         tensors=2),
    Form("mul", (*names("mul", "multiply"), operator.mul, operator.imul), no_parameters(ops.Mul), tensors=2),
    Form("div", (*names("div", "divide", "true_divide"), operator.truediv, operator.itruediv),
         only(ops.Div, rounding_mode=None), {"rounding_mode": None}, tensors=2),
    Form("pow", (*names("pow"), operator.pow, operator.ipow), no_parameters(ops.Pow), tensors=2),
    Form("maximum", names("maximum"), no_parameters(ops.Maximum), tensors=2),
    Form("minimum", names("minimum"), no_parameters(ops.Minimum), tensors=2),
    Form("matmul", (*names("matmul", "bmm", "mm"), operator.matmul), no_parameters(ops.MatMul), tensors=2),
    Form("mean", names("mean"), only(ops.Mean, dtype=None), {**_REDUCED, "dtype": None}, variadic=True),
    Form("sum", names("sum"), only(ops.Sum, dtype=None), {**_REDUCED, "dtype": None}, variadic=True),
    Form("amax", names("amax"), ops.Amax, _REDUCED, variadic=True),
    Form("amin", names("amin"), ops.Amin, _REDUCED, variadic=True),
    *(
        Form(name, (*names(*_OTHER_NAMES.get(name, (name,))), *_OPERATORS.get(name, ())), partial(ops.Unary, name))
        for name in UNARY
    ),
)  # fmt: skip
