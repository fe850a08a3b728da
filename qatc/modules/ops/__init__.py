"""Modules for what models write as functions and operators, so that passes see modules alone.

Tensors are arguments of `forward`, everything else is an attribute; each computes exactly what the function did. Sizes,
positions and parameters that the network computes are keyword arguments.
"""

from qatc.modules.ops.arithmetic import Add, Div, MatMul, Maximum, Minimum, Mul, Pow, Sub, Unary
from qatc.modules.ops.attention import LogSoftmax, MaskedSoftmax, Softmax
from qatc.modules.ops.norms import GroupNorm, InstanceNorm, LayerNorm, Normalize, RMSNorm
from qatc.modules.ops.parameters import Embedding, PReLU
from qatc.modules.ops.parts import Assign, Chunk, Flip, IndexSelect, Narrow, Roll, Select, Slice, Split, TakeAlong
from qatc.modules.ops.reduce import Amax, Amin, Mean, Sum
from qatc.modules.ops.resize import Interpolate, Pad
from qatc.modules.ops.shape import (
    Cast,
    Concat,
    Expand,
    Movedim,
    Permute,
    RepeatInterleave,
    Reshape,
    Squeeze,
    Tile,
    Transpose,
    Unsqueeze,
)
from qatc.modules.ops.stochastic_depth import StochasticDepth

__all__ = [
    "Add", "Amax", "Amin", "Assign", "Cast", "Chunk", "Concat", "Div", "Embedding", "Expand", "Flip", "GroupNorm",
    "IndexSelect", "InstanceNorm", "Interpolate", "LayerNorm", "LogSoftmax", "MaskedSoftmax", "MatMul", "Maximum",
    "Mean", "Minimum", "Movedim", "Mul", "Narrow", "Normalize", "PReLU", "Pad", "Permute", "Pow", "RMSNorm",
    "RepeatInterleave", "Reshape", "Roll", "Select", "Slice", "Softmax", "Split", "Squeeze", "StochasticDepth", "Sub",
    "Sum", "TakeAlong", "Tile", "Transpose", "Unary", "Unsqueeze",
]  # fmt: skip
