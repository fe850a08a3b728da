"""Pooling, resizing, normalisation, dropout, embedding."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qatc.modules import ops
from qatc.modules.forms.form import INPLACE, Build, Form, names, only, plain


def _pool(kind: type[nn.Module]) -> Build:
    def build(**given: Any) -> nn.Module | None:
        return kind(**given) if not given.get("return_indices") else None

    return build


def _dropout(kind: type[nn.Module]) -> Callable[..., nn.Module | None]:
    # `training` is what the flag was when the model was traced; the module follows train() and eval() again.
    def build(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
        return kind(p)

    return build


def _instance_norm(
    running_mean: Any, running_var: Any, use_input_stats: bool, momentum: float, eps: float, **_: Any
) -> nn.Module | None:
    return ops.InstanceNorm(eps) if running_mean is None and running_var is None and use_input_stats else None


def _embedding(padding_idx: Any, max_norm: Any, sparse: bool, **_: Any) -> nn.Module | None:
    return ops.Embedding(padding_idx) if max_norm is None and not sparse else None


def _adaptive_max_pool(kind: type[nn.Module]) -> Build:
    def build(output_size: Any, return_indices: bool) -> nn.Module | None:
        return None if return_indices else kind(output_size)

    return build


_POOL = {"kernel_size": None, "stride": None, "padding": 0}
_MAX = {**_POOL, "dilation": 1, "ceil_mode": False, "return_indices": False}
_AVG = {**_POOL, "ceil_mode": False, "count_include_pad": True}
_AVG_DIVISOR = {**_AVG, "divisor_override": None}
_LP = {"norm_type": 2.0, "kernel_size": None, "stride": None, "ceil_mode": False}
_SIZE = {"output_size": None}
_RESIZE = {
    "size": None, "scale_factor": None, "mode": "nearest", "align_corners": None, "recompute_scale_factor": None,
    "antialias": False,
}  # fmt: skip
_UPSAMPLE = {name: _RESIZE[name] for name in ("size", "scale_factor", "mode", "align_corners")}
_DROPOUT = {"p": 0.5, "training": True, **INPLACE}
_EMBEDDING = {
    "weight": None, "padding_idx": None, "max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False,
    "sparse": False,
}  # fmt: skip
_INSTANCE_NORM = {
    "running_mean": None, "running_var": None, "weight": None, "bias": None, "use_input_stats": True,
    "momentum": 0.1, "eps": 1e-5,
}  # fmt: skip
_WEIGHT, _AFFINE = frozenset({"weight"}), frozenset({"weight", "bias"})

LAYERS: tuple[Form, ...] = (
    Form("max_pool1d", names("max_pool1d", "_max_pool1d"), _pool(nn.MaxPool1d), _MAX),
    Form("max_pool2d", names("max_pool2d", "_max_pool2d"), _pool(nn.MaxPool2d), _MAX),
    Form("max_pool3d", names("max_pool3d", "_max_pool3d"), _pool(nn.MaxPool3d), _MAX),
    Form("avg_pool1d", names("avg_pool1d"), nn.AvgPool1d, _AVG),
    Form("avg_pool2d", names("avg_pool2d"), nn.AvgPool2d, _AVG_DIVISOR),
    Form("avg_pool3d", names("avg_pool3d"), nn.AvgPool3d, _AVG_DIVISOR),
    Form("lp_pool1d", (F.lp_pool1d,), nn.LPPool1d, _LP),
    Form("lp_pool2d", (F.lp_pool2d,), nn.LPPool2d, _LP),
    Form("lp_pool3d", (F.lp_pool3d,), nn.LPPool3d, _LP),
    Form("adaptive_avg_pool1d", names("adaptive_avg_pool1d"), nn.AdaptiveAvgPool1d, _SIZE),
    Form("adaptive_avg_pool2d", names("adaptive_avg_pool2d"), nn.AdaptiveAvgPool2d, _SIZE),
    Form("adaptive_avg_pool3d", names("adaptive_avg_pool3d"), nn.AdaptiveAvgPool3d, _SIZE),
    Form("adaptive_max_pool1d", (F.adaptive_max_pool1d,),
         _adaptive_max_pool(nn.AdaptiveMaxPool1d), {**_SIZE, "return_indices": False}),
    Form("adaptive_max_pool2d", (F.adaptive_max_pool2d,),
         _adaptive_max_pool(nn.AdaptiveMaxPool2d), {**_SIZE, "return_indices": False}),
    Form("adaptive_max_pool3d", (F.adaptive_max_pool3d,),
         _adaptive_max_pool(nn.AdaptiveMaxPool3d), {**_SIZE, "return_indices": False}),
    Form("interpolate", (F.interpolate,), ops.Interpolate, _RESIZE, computed=frozenset({"size"})),
    Form("interpolate", (F.upsample,), ops.Interpolate, _UPSAMPLE, computed=frozenset({"size"})),
    Form("dropout", (F.dropout, torch.dropout), _dropout(nn.Dropout), _DROPOUT),
    Form("dropout1d", (F.dropout1d,), _dropout(nn.Dropout1d), _DROPOUT),
    Form("dropout2d", (F.dropout2d,), _dropout(nn.Dropout2d), _DROPOUT),
    Form("dropout3d", (F.dropout3d,), _dropout(nn.Dropout3d), _DROPOUT),
    Form("alpha_dropout", (F.alpha_dropout, torch.alpha_dropout), _dropout(nn.AlphaDropout), _DROPOUT),
    Form("feature_alpha_dropout", (F.feature_alpha_dropout, torch.feature_alpha_dropout),
         _dropout(nn.FeatureAlphaDropout), _DROPOUT),
    Form("layer_norm", (F.layer_norm,), plain(ops.LayerNorm, "weight", "bias"),
         {"normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5}, computed=_AFFINE),
    Form("layer_norm", (torch.layer_norm,), plain(ops.LayerNorm, "weight", "bias", "cudnn_enable"),
         {"normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5, "cudnn_enable": True}, computed=_AFFINE),
    Form("rms_norm", names("rms_norm"), plain(ops.RMSNorm, "weight"),
         {"normalized_shape": None, "weight": None, "eps": None}, computed=_WEIGHT),
    Form("group_norm", (F.group_norm,), plain(ops.GroupNorm, "weight", "bias"),
         {"num_groups": 1, "weight": None, "bias": None, "eps": 1e-5}, computed=_AFFINE),
    Form("instance_norm", (F.instance_norm,), _instance_norm, _INSTANCE_NORM, computed=_AFFINE),
    Form("local_response_norm", (F.local_response_norm,), nn.LocalResponseNorm,
         {"size": None, "alpha": 1e-4, "beta": 0.75, "k": 1.0}),
    Form("normalize", (F.normalize,), only(ops.Normalize, out=None), {"p": 2.0, "dim": 1, "eps": 1e-12, "out": None}),
    Form("embedding", (F.embedding,), _embedding, _EMBEDDING, computed=_WEIGHT),
)  # fmt: skip
