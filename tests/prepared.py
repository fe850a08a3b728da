"""A small model prepared and calibrated, and the targets and configurations to try it with."""

import pytest
from torch import Tensor, nn

import qatc
from qatc.config import PRESETS, QConfig, config_of
from qatc.passes import (
    DedupModules,
    FoldBnSelf,
    Functionalize,
    FunctionalToLayer,
    FunctionalToModule,
    FuseConvBnAct,
    InsertQuantizers,
)
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from qatc.spec import QuantSpec
from qatc.targets import TARGETS, target_of
from qatc.trace import trace
from tests.models import images, randomise

BEFORE_QUANTIZERS = (
    DedupModules(),
    Functionalize(),
    FunctionalToLayer(),
    FunctionalToModule(),
    FuseConvBnAct(),
    FoldBnSelf(),
)
every_target = pytest.mark.parametrize("target", TARGETS)
every_config = pytest.mark.parametrize("config", PRESETS)


def prepared(model: nn.Module, target: str = "onnxruntime", config: str = "w8a8") -> qatc.PreparedModel:
    """Return the model with seeded weights, prepared and calibrated."""
    gm = qatc.prepare(randomise(model), images(), target, config)
    qatc.calibrate(gm, [images(seed=1), images(seed=2)], progress=False)
    return gm


def placed(
    model: nn.Module, target: str = "onnxruntime", config: str | QConfig = "w8a8", inputs: Tensor | None = None
) -> PreparedModel:
    """Return the graph behind the pass."""
    gm = trace(randomise(model), [images() if inputs is None else inputs])
    for step in (*BEFORE_QUANTIZERS, InsertQuantizers(target_of(target), config_of(config))):
        step.run(gm)
    return gm


def specs(gm: nn.Module) -> dict[str, QuantSpec]:
    """Return the grid of each quantizer, of activations and of weights, by name."""
    return {name: module.spec for name, module in gm.named_modules() if isinstance(module, Quantizer)}


def reasons(gm: PreparedModel) -> dict[str, str]:
    """Return why each op is float that is."""
    return {row.name: row.reason for row in gm.report.rows if row.reason}
