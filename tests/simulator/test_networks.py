"""Whole lowered networks in the simulator, beside ONNX Runtime: end to end, no code differs."""

import inspect

import pytest
import torch
from torch import Tensor

import qatc
from qatc.lowering.flatten_inputs import input_name
from qatc.nested import leaves
from qatc.targets import TARGETS
from tests.lowering.networks import data, everything
from tests.models import images
from tests.simulator.agreement import agreement, fed, lowered
from tests.torchvision_networks import NETWORKS, network
from tools.bench.networks import vit_small
from tools.zoo_suites.classics_suite import entries
from tools.zoo_suites.entry import given
from tools.zoo_suites.weights import randomise

CLASSICS = {entry.name: entry for entry in entries()}


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2", "w4a4"])
def test_every_op_that_lowering_rewrites(target: str, config: str) -> None:
    proto = lowered(everything(), data(), target, config)
    found = agreement(proto, fed(proto, data()), TARGETS[target].verify.runtimes[0])
    assert found.codes > 100_000
    assert found.differing == 0


@pytest.mark.parametrize("options", [{"weights": "float"}, {"sub_byte": "native"}, {"sub_byte": "qcdq"}], ids=str)
def test_files_written_otherwise_have_the_same_codes(options: dict[str, str]) -> None:
    proto = lowered(everything(), data(), "onnxruntime", "w4a4-pow2", **options)
    assert agreement(proto, fed(proto, data())).differing == 0
    found = qatc.accumulators(proto, {proto.graph.input[0].name: data().numpy()})
    usual = qatc.accumulators(lowered(everything(), data(), "onnxruntime", "w4a4-pow2"))
    assert [row.worst for row in found] == [row.worst for row in usual]


def test_float16_around_the_integers() -> None:
    """ONNX Runtime rounds sums to float16 op by op, the simulator adds integers: codes differ by a step."""
    proto = lowered(everything(), data(), "tensorrt", "w8a8-pow2", float_dtype="fp16")
    found = agreement(proto, fed(proto, data()), "onnxruntime-unoptimized", per_op=True)
    assert found.codes > 100_000
    assert found.differing <= 0.02 * found.codes
    assert found.step <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_deep_networks_with_free_scales(name: str) -> None:
    x = images(4, 3, 64, 64)
    proto = lowered(network(name), x)
    found = agreement(proto, fed(proto, x))
    assert found.codes > 1_000_000
    assert found.differing == 0
    assert found.outputs == 0.0


@pytest.mark.parametrize("name", [
    "u-net-transposed", "squeeze-excite", "channel-shuffle", "silu-concat-resize", "super-resolution", "audio-net",
    "volume-net", "yolo-head", "causal-attention",
])  # fmt: skip
def test_written_networks(name: str) -> None:
    entry = CLASSICS[name]
    torch.manual_seed(0)
    x = given(entry.inputs, 4, seed=1)
    model = randomise(entry.build(), x)
    proto = lowered(model, x)
    signature = inspect.signature(model.forward)
    bound = signature.bind(**x) if isinstance(x, dict) else signature.bind(*x)
    arrays = {input_name(leaf.path): leaf.value for leaf in leaves(bound.arguments) if isinstance(leaf.value, Tensor)}
    found = agreement(proto, fed(proto, *(arrays[i.name] for i in proto.graph.input)))
    assert found.codes > 0
    assert found.differing == 0


def test_a_vision_transformer() -> None:
    """Its Softmax and LayerNorm are float, by the same kernels; without its optimizer the runtime's sums are too."""
    x = images(4, 3, 96, 96)
    proto = lowered(vit_small(), x)
    assert agreement(proto, fed(proto, x)).differing == 0
    found = agreement(proto, fed(proto, x), "onnxruntime-unoptimized", per_op=True)
    assert found.codes > 2_500_000
    assert found.differing <= 1e-5 * found.codes
    assert found.step <= 1
