"""Codes of what float ops give: no two libraries compute those alike to the last bit, so they may meet a tie."""

import torch
from torch import nn

import qatc
from qatc.lowering.verify import behind_floats


def test_what_lies_behind_float_ops_is_known() -> None:
    """ReLU is fused and leaves integers, GELU and LayerNorm are float; a grid ends what is behind them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4),
        nn.ReLU(), nn.Linear(4, 4),
    )  # fmt: skip
    x = torch.randn(4, 8)
    prepared = qatc.prepare(model, x, config="w8a8-pow2")
    found = behind_floats(prepared)
    layers = {name.removesuffix("_q") for name in found}
    assert {"3", "5"} <= layers
    assert not layers & {"0", "1", "2", "4", "6", "7", "8"}


def test_what_a_target_has_in_integers_and_is_run_in_float_here_counts_as_float() -> None:
    """TIDL has LayerNorm, GELU and a bilinear resize in integers; a sigmoid's codes must be equal there, too."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 1), nn.Upsample(scale_factor=3, mode="bilinear"),
        nn.Conv2d(4, 4, 1), nn.LayerNorm(18), nn.Conv2d(4, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1),
    )  # fmt: skip
    found = {name.removesuffix("_q") for name in behind_floats(qatc.prepare(model, torch.randn(2, 3, 8, 8), "tidl"))}
    assert found == {"1", "3", "5"}
