"""Attention taken apart, so that its matrix products can be quantized: functions of torch's own, on proxies."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qatc.expand import DeclinedError, rank_of, tracer_of, type_of
from qatc.modules import ops


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Return `torch.nn.functional.scaled_dot_product_attention` of [..., L, E], [..., S, E] and [..., S, V].

    The scores are scaled, and not the query as in torch: they are float between the first product and softmax on every
    target, while a scaled query would need a grid of its own. Dropout follows the model's mode.
    """
    if not isinstance(is_causal, bool) or not isinstance(dropout_p, int | float):
        raise DeclinedError  # decided by sizes of the network
    if enable_gqa:
        groups = _size(query, -3) // _size(key, -3)
        key, value = (torch.repeat_interleave(x, groups, -3) for x in (key, value))
    scores = torch.matmul(query, torch.transpose(key, -2, -1))
    factor = _size(query, -1) ** -0.5 if scale is None else scale
    if not isinstance(factor, float) or factor != 1.0:
        scores = scores * factor
    weights = _softmax(scores, [] if attn_mask is None else [attn_mask], is_causal)
    if dropout_p:
        weights = tracer_of(weights).call("dropout", nn.Dropout(dropout_p), weights)
    return torch.matmul(weights, value)


def _softmax(scores: Any, masks: list[Any], causal: bool, mask_blocks: bool = False) -> Any:
    if not masks and not causal:
        return F.softmax(scores, -1)
    return tracer_of(scores).call("softmax", ops.MaskedSoftmax(causal, mask_blocks), scores, *masks)


def _size(x: Any, dim: int) -> Any:
    """Return a size of a proxy's tensor: a number if it is known, else computed in the graph."""
    kind = type_of(x)
    size = None if kind is None else kind.shape[dim]
    return x.size(dim) if size is None else size


def multihead_attention(
    module: nn.MultiheadAttention,
    path: str,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """Return what `nn.MultiheadAttention` does: the result, and the weights or None.

    The parameters keep their names, `out_proj` stays a module. As in torch, `is_causal` only says what `attn_mask` is.
    """
    tracer = tracer_of(query)
    heads, batched = module.num_heads, rank_of(query) != 2
    q, k, v = _projected(module, path, query, key, value)
    masks = [] if attn_mask is None else [attn_mask]
    if key_padding_mask is not None:
        masks.append(key_padding_mask[(slice(None), None, None) if batched else (None, None)])
    if module.bias_k is not None:
        k, v = (_with_bias(tracer.attribute(f"{path}.{name}"), x, module.batch_first, batched)
                for name, x in (("bias_k", k), ("bias_v", v)))  # fmt: skip
    sequence_first = batched and not module.batch_first
    q, k, v = (_split_heads(x, heads, sequence_first) for x in (q, k, v))
    if module.add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
    extra = (module.bias_k is not None) + module.add_zero_attn
    if extra:
        masks = [F.pad(mask, (0, extra)) for mask in masks]
    scores = torch.matmul(q, torch.transpose(k, -2, -1)) * (1.0 / math.sqrt(module.head_dim))
    weights = _softmax(scores, masks, causal=False, mask_blocks=True)
    if module.dropout:
        weights = tracer.call("dropout", nn.Dropout(module.dropout), weights)
    mixed = torch.matmul(weights, v)
    mixed = torch.permute(mixed, (2, 0, 1, 3)) if sequence_first else torch.transpose(mixed, -3, -2)
    result = tracer.call_existing(f"{path}.out_proj", torch.flatten(mixed, -2))
    if not need_weights:
        return result, None
    return result, torch.mean(weights, dim=-3) if average_attn_weights else weights


def _projected(module: nn.MultiheadAttention, path: str, query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """Return query, key and value behind their projections, in one product where they are one tensor."""
    tracer, width = tracer_of(query), module.embed_dim
    bias = None if module.in_proj_bias is None else tracer.attribute(f"{path}.in_proj_bias")
    parts = [slice(i * width, (i + 1) * width) for i in range(3)]
    if not module._qkv_same_embed_dim:
        weights = [tracer.attribute(f"{path}.{name}_proj_weight") for name in "qkv"]
    else:
        weight = tracer.attribute(f"{path}.in_proj_weight")
        if query.node is key.node is value.node:
            packed = torch.chunk(F.linear(query, weight, bias), 3, -1)
            return packed[0], packed[1], packed[2]
        weights = [weight[part] for part in parts]
    biases = [None if bias is None else bias[part] for part in parts]
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    return q, k, v


def _split_heads(x: Any, heads: int, sequence_first: bool) -> Any:
    """Return [N, L, E] (or [L, N, E], or [L, E]) as [N, heads, L, E / heads]."""
    split = x.unflatten(-1, (heads, -1))
    return torch.permute(split, (1, 2, 0, 3)) if sequence_first else torch.transpose(split, -3, -2)


def _with_bias(bias: Any, x: Any, batch_first: bool, batched: bool) -> Any:
    """Return keys or values with a learned one [1, 1, E] at the end of the sequence."""
    if not batched:
        return torch.cat([x, torch.squeeze(bias, 0)])
    if batch_first:
        return torch.cat([x, bias.expand(x.size(0), -1, -1)], 1)
    return torch.cat([x, bias.expand(-1, x.size(1), -1)], 0)
