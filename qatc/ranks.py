"""One state for all ranks of a process group: what each saw of its own data becomes what any saw."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.distributed import ReduceOp

# How the values that ranks have become one; NaN stands for nothing seen, and counts for none of them.
Join = Literal["least", "greatest", "mean"]


def all_ranks() -> bool:
    """Say whether there is more than one process that trains this model."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def join(states: Iterable[tuple[Tensor, Join]]) -> None:
    """Give each of these float32 tensors the value of all ranks, in place and bit for bit the same on each.

    However many there are, that is one collective for extremes and one for means, and no wait for the device.
    """
    found = list(states) if all_ranks() else []
    for means in (False, True):
        chosen = [(state, how) for state, how in found if (how == "mean") is means]
        if chosen:
            (_join_means if means else _join_extremes)(chosen)


def _join_extremes(chosen: list[tuple[Tensor, Join]]) -> None:
    signs = [-1.0 if how == "least" else 1.0 for _, how in chosen]
    flat = _flat([state * sign for (state, _), sign in zip(chosen, signs, strict=True)]).nan_to_num(
        nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
    )
    torch.distributed.all_reduce(flat, ReduceOp.MAX)
    parts = flat.split([state.numel() for state, _ in chosen])
    for (state, _), sign, part in zip(chosen, signs, parts, strict=True):
        state.copy_(torch.where(part == -torch.inf, torch.nan, part * sign).view_as(state))


def _join_means(chosen: list[tuple[Tensor, Join]]) -> None:
    flat = _flat([state for state, _ in chosen])
    seen = ~flat.isnan()
    summed = torch.cat([torch.where(seen, flat, 0.0), seen.to(flat.dtype)])
    torch.distributed.all_reduce(summed)
    total, count = summed.chunk(2)
    parts = (total / count).split([state.numel() for state, _ in chosen])  # 0 / 0 is NaN again
    for (state, _), part in zip(chosen, parts, strict=True):
        state.copy_(part.view_as(state))


def _flat(states: Iterable[Tensor]) -> Tensor:
    return torch.cat([state.detach().flatten().float() for state in states])
