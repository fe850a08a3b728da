"""Ops that move values: other shapes, parts, repetitions."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qatc import ir
from qatc.calls import has_types, is_size
from qatc.modules import ops
from qatc.modules.forms.form import Build, Form, names, plain


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _reshape(shape: Any = None) -> nn.Module | None:
    return None if isinstance(shape, torch.dtype) else ops.Reshape(shape)  # x.view(dtype) reads the bits otherwise


def _same(memory_format: Any = None) -> nn.Module | None:
    return nn.Identity() if memory_format in (None, torch.contiguous_format, torch.preserve_format) else None


def _repeat_interleave(repeats: Any, dim: Any, output_size: Any) -> nn.Module | None:
    return ops.RepeatInterleave(repeats, dim) if isinstance(repeats, int) and isinstance(dim, int) else None


def _sizes(kind: Callable[[tuple[int, ...]], nn.Module]) -> Build:
    """Build `kind` from one parameter, sizes in a tuple or a single one; without it, they come from the network."""

    def build(**given: Any) -> nn.Module:
        sizes = next(iter(given.values()), ())
        return kind(sizes if isinstance(sizes, tuple) else (sizes,))

    return build


def _cast(dtype: Any) -> nn.Module | None:
    # Others lose values, or leave the floats.
    return ops.Cast(dtype) if dtype == torch.float32 else None


def _indexes_tensor(node: fx.Node) -> bool:
    """Say whether x[index] is of a tensor, and by plain numbers or sizes: it moves values, whatever they are."""
    whole, index = node.args
    if not isinstance(whole, fx.Node):
        return False
    nodes = [n for n in node.all_input_nodes if n is not whole] + ([whole] if _holds(index, whole) else [])
    known = has_types(node.graph)
    if any(ir.tensor_type(n) is not None if known else not is_size(n) for n in nodes):
        return False
    if _holds_list(index):
        return False
    # Without types, what is indexed by a tuple is a tensor; by a number it may be a tuple itself.
    return ir.tensor_type(whole) is not None if known else isinstance(index, tuple) and not is_size(whole)


def _holds(index: Any, node: fx.Node) -> bool:
    return index is node or (isinstance(index, tuple | list) and any(_holds(i, node) for i in index))


def _holds_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(i, list | bool) for i in index))


def _computed(*named: str) -> frozenset[str]:
    return frozenset(named)


# `view`, `expand` and `repeat` as methods take sizes one by one; the list is `size`, `shape` or `repeats` by name.
SHAPES: tuple[Form, ...] = (
    Form("concat", names("cat", "concat", "concatenate"), ops.Concat, {"dim": 0}),
    Form("flatten", names("flatten"), _flatten, {"start_dim": 0, "end_dim": -1}),
    Form("unflatten", names("unflatten"), nn.Unflatten, {"dim": 0, "unflattened_size": ()}),
    Form("reshape", names("reshape", "view"), _reshape, {"shape": None}, computed=_computed("shape"), variadic=True),
    Form("permute", names("permute"), ops.Permute, {"dims": ()}, variadic=True),
    Form("transpose", names("transpose", "swapaxes", "swapdims"), ops.Transpose, {"dim0": 0, "dim1": 1}),
    Form("movedim", names("movedim", "moveaxis"), ops.Movedim, {"source": 0, "destination": 0}),
    Form("squeeze", names("squeeze"), ops.Squeeze, {"dim": None}),
    Form("unsqueeze", names("unsqueeze"), ops.Unsqueeze, {"dim": 0}),
    Form("expand", ("expand",), _sizes(ops.Expand), {"size": None}, computed=_computed("size"), variadic=True),
    Form("expand_as", ("expand_as",), plain(ops.Expand), {"other": None}, computed=_computed("other")),
    Form("tile", names("tile"), _sizes(ops.Tile), {"dims": None}, variadic=True),
    Form("repeat", ("repeat",), _sizes(ops.Tile), {"repeats": None}, computed=_computed("repeats"), variadic=True),
    Form("repeat_interleave", names("repeat_interleave"), _repeat_interleave,
         {"repeats": None, "dim": None, "output_size": None}),
    Form("identity", names("contiguous", "clone"), _same, {"memory_format": None}),
    Form("cast", ("to", "type"), _cast, {"dtype": None}),
    Form("slice", (operator.getitem,), ops.Slice, {"index": None}, computed=_computed("index"),
         fits=_indexes_tensor),
    Form("narrow", names("narrow"), ops.Narrow, {"dim": 0, "start": 0, "length": 1},
         computed=_computed("start", "length")),
    Form("select", names("select"), ops.Select, {"dim": 0, "index": 0}),
    Form("index_select", names("index_select"), plain(ops.IndexSelect), {"dim": 0, "index": None},
         computed=_computed("index")),
    Form("gather", names("gather"), plain(ops.TakeAlong, "sparse_grad"),
         {"dim": 0, "index": None, "sparse_grad": False}, computed=_computed("index")),
    Form("flip", names("flip"), ops.Flip, {"dims": ()}, variadic=True),
    Form("roll", names("roll"), ops.Roll, {"shifts": 0, "dims": None}),
    Form("pixel_shuffle", names("pixel_shuffle"), nn.PixelShuffle, {"upscale_factor": 1}),
    Form("pixel_unshuffle", names("pixel_unshuffle"), nn.PixelUnshuffle, {"downscale_factor": 1}),
    Form("channel_shuffle", names("channel_shuffle"), nn.ChannelShuffle, {"groups": 1}),
    Form("unfold", (F.unfold,), nn.Unfold, {"kernel_size": None, "dilation": 1, "padding": 0, "stride": 1}),
    Form("fold", (F.fold,), nn.Fold,
         {"output_size": None, "kernel_size": None, "dilation": 1, "padding": 0, "stride": 1}),
    Form("pad", (F.pad,), ops.Pad, {"pad": None, "mode": "constant", "value": None}, computed=_computed("pad")),
)  # fmt: skip
