"""Each invariant holds of a prepared model, and finds the node that breaks it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc import ir
from qatc.invariants import (
    BIAS_GRIDS,
    INVARIANTS,
    NO_INPLACE,
    NO_UNFUSED_BATCH_NORM,
    ONE_CALL_SITE,
    POW2_SCALES,
    Invariant,
)
from tests.models import Classifier, images


def call_of(gm: Any, path: str) -> Any:
    return next(node for node, _ in ir.module_calls(gm) if node.target == path)


def call_twice(gm: Any) -> None:
    call_of(gm, "fc").target = "flatten"


def overwrite(gm: Any) -> None:
    gm.conv.activation.inplace = True
    gm.pool.inplace = True


def add_a_batch_norm(gm: Any) -> None:
    gm.pool = nn.BatchNorm2d(4)


def forget_the_grid(gm: Any) -> None:
    call_of(gm, "fc").kwargs = {}


def give_another_grid(gm: Any) -> None:
    call_of(gm, "fc").kwargs["grid"].target = "x_q"


def free_an_activation(gm: Any) -> None:
    gm.x_q.spec = replace(gm.x_q.spec, pow2=None)


def free_a_weight(gm: Any) -> None:
    gm.fc.weight_quantizer.spec = replace(gm.fc.weight_quantizer.spec, pow2=None)


@pytest.mark.parametrize(
    ("invariant", "damage", "found"),
    [
        (ONE_CALL_SITE, call_twice, snapshot(["%fc: module 'flatten' is also called by %flatten"])),
        (NO_INPLACE, overwrite, snapshot(["%pool: the module overwrites its input"])),
        (
            NO_UNFUSED_BATCH_NORM,
            add_a_batch_norm,
            snapshot(["%pool: a BatchNorm is neither fused, folded, nor reported as float"]),
        ),
        (
            BIAS_GRIDS,
            forget_the_grid,
            snapshot(["%fc: the bias does not lie on the grid of the tensor that the layer reads"]),
        ),
        (
            BIAS_GRIDS,
            give_another_grid,
            snapshot(["%fc: the bias does not lie on the grid of the tensor that the layer reads"]),
        ),
        (POW2_SCALES, free_an_activation, snapshot(["%x_q: a scale is not a power of two"])),
        (POW2_SCALES, free_a_weight, snapshot(["%fc: a scale is not a power of two"])),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damage_is_found_at_its_node(invariant: Invariant, damage: Callable[[Any], None], found: list[str]) -> None:
    gm = qatc.prepare(Classifier(), images(), config="w8a8-pow2")
    assert [violation for each in INVARIANTS for violation in each.check(gm)] == []
    damage(gm)
    assert [f"%{violation.node.name}: {violation.why}" for violation in invariant.check(gm)] == found
