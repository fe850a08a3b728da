import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import CalibrationError, ConfigError, TraceError
from qatc.modules.fused import Fused
from qatc.prepared import PreparedModel
from qatc.printer import format_graph
from tests.check_pass import TOLERANCE, check_same_function, close, evaluated, trained
from tests.models import (
    Classifier,
    Concat,
    DataDependent,
    Functional,
    ResidualIdentity,
    SharedBatchNorm,
    Sizes,
    images,
    randomise,
)
from tests.prepared import every_config, every_target, prepared
from tests.torchvision_networks import NETWORKS, network


def test_prepare_leaves_the_model_as_it_was() -> None:
    model = randomise(ResidualIdentity())
    text, state, modes = str(model), copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    out = evaluated(copy.deepcopy(model), [images()])
    gm = prepared(model)
    for parameter in gm.parameters():
        with torch.no_grad():
            parameter.add_(1)
    assert str(model) == text
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(evaluated(model, [images()]), out)


@every_target
@every_config
@pytest.mark.parametrize("kind", [Functional, ResidualIdentity, Concat, SharedBatchNorm, Classifier, Sizes])
def test_without_quantization_a_prepared_model_is_the_float_model(
    kind: Callable[[], nn.Module], target: str, config: str
) -> None:
    model = randomise(kind())
    check_same_function(model, prepared(model, target, config), [images()])


@every_target
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision_keep_their_function_and_are_quantized_whole(name: str, target: str) -> None:
    model, x = network(name), images(2, 3, 64, 64, seed=5)
    gm = qatc.prepare(model, x, target)
    with qatc.float_mode(gm):
        # 50 layers of float32, folded in another order of operations
        close(evaluated(gm, [x]), evaluated(model, [x]), "float output", 1e-4)
    qatc.calibrate(gm, [x], progress=False)
    expected, actual = evaluated(model, [x]), evaluated(gm, [x])
    noise = float((actual - expected).square().mean() / expected.square().mean())
    assert noise < 0.02  # 8 bits; a scale or a branch that is wrong gives 1
    weighted = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    assert sum(bool(row.weight) for row in gm.report.rows) == weighted
    # TensorRT moves a Q behind a MaxPool to before it, the simulation has it where it is read.
    assert {row.kind for row in gm.report.rows if not row.quantized} <= ({"MaxPool"} if target == "tensorrt" else set())


def test_a_module_that_the_user_put_in_eval_mode_stays_so() -> None:
    model = ResidualIdentity().train()
    model.stem[1].eval()
    gm = qatc.prepare(model, images())
    assert [name for name, m in gm.named_modules() if not m.training] == ["stem.1"]


@every_target
def test_a_copy_is_independent(target: str) -> None:
    gm = prepared(Concat(), target).train()
    twin = copy.deepcopy(gm)
    assert isinstance(twin, PreparedModel)
    assert (twin.prepared_for, str(twin.report)) == (gm.prepared_for, str(gm.report))
    assert torch.equal(evaluated(twin, [images()]), evaluated(gm, [images()]))
    before = copy.deepcopy(gm.state_dict())
    trained(twin, [9 * images()])
    torch.optim.SGD(twin.parameters(), lr=1.0).step()
    assert all(torch.equal(v, before[k]) for k, v in gm.state_dict().items())


def test_control_flow_that_depends_on_data_is_an_error_with_a_place_and_a_remedy() -> None:
    with pytest.raises(TraceError) as caught:
        qatc.prepare(DataDependent(), images())
    assert re.sub(r"py:\d+", "py:LINE", str(caught.value)) == snapshot("""\
DataDependent cannot be traced: its Python decides on the values of a tensor
  at: models.py:LINE: if y.sum() > 0:
  try: compute with torch.where instead of `if`, or move this part into a submodule, which then stays in float\
""")


def test_example_inputs_that_do_not_fit_are_an_error_that_names_the_line() -> None:
    with pytest.raises(TraceError) as caught:
        qatc.prepare(Classifier(), torch.zeros(2, 5, 8, 8))
    message = re.sub(r"py:\d+", "py:LINE", str(caught.value))
    assert message.startswith("Classifier does not run on the example inputs: RuntimeError: ")  # and torch's own words
    assert message.splitlines()[1:] == snapshot(
        [
            "  at: models.py:LINE: y = self.pool(self.act(self.conv(x)))",
            "  try: check shapes, types and names in example_inputs: a tensor, a tuple of positional arguments, or a "
            "dict of keyword arguments",
        ]
    )


@every_target
@pytest.mark.parametrize("kind", [Functional, ResidualIdentity, Concat, Sizes])
def test_without_example_inputs_the_same_grids_stand_at_the_same_places(
    kind: Callable[[], nn.Module], target: str
) -> None:
    typed, untyped = (qatc.prepare(randomise(kind()), given, target) for given in (images(), None))
    modules = [[n.target for n in gm.graph.nodes if n.op == "call_module"] for gm in (typed, untyped)]
    assert modules[0] == modules[1]
    for gm in (typed, untyped):
        qatc.calibrate(gm, [images()], progress=False)
    assert torch.equal(evaluated(untyped, [images()]), evaluated(typed, [images()]))


def test_a_linear_with_a_bn_of_another_dimension_needs_example_inputs_and_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    gm = qatc.prepare(model)
    with pytest.raises(qatc.QatcError) as caught:
        gm(images(2, 4, 4))
    assert str(caught.value) == snapshot("""\
a BatchNorm was fused to a Linear, which now reads (2, 4, 4)
  try: give qatc.prepare example_inputs: it then leaves such a BatchNorm on its own\
""")


def test_integers_need_example_inputs_and_the_error_says_so() -> None:
    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.fc = nn.Embedding(16, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Any:
            return self.fc(self.embedding(x + x))

    ids = torch.arange(8).view(2, 4)
    gm = qatc.prepare(Offsets(), ids)
    qatc.calibrate(gm, [ids], progress=False)
    with pytest.raises(CalibrationError) as caught:
        qatc.calibrate(qatc.prepare(Offsets()), [ids], progress=False)
    assert str(caught.value) == snapshot("""\
a quantizer was given int64
  try: give qatc.prepare example_inputs: tensors of integers then stay as they are\
""")


def test_the_report_says_of_every_op_how_it_is_quantized_or_why_not() -> None:
    gm = prepared(Functional())
    assert str(gm.report) == snapshot("""\
op                   kind               weight  inputs   output  why float
--------------------------------------------------------------------------
conv                 Conv               s8/ch0  u8/asym  u8
max_pool2d           MaxPool                    u8
sigmoid              Sigmoid                    u8       u8
mul                  Mul                        u8       u8
concat               Concat                     u8       u8
adaptive_avg_pool2d  GlobalAveragePool          u8       u8
flatten              Reshape                    u8
dropout              Identity                   u8
fc                   Gemm               s8/ch0  u8
softmax              Softmax                    float            the integer Softmax moves 0.3 % of the codes
9 of 10 ops quantized (2 with weights); float: Softmax\
""")


def test_the_report_of_tensorrt() -> None:
    assert str(prepared(ResidualIdentity(), "tensorrt").report) == snapshot("""\
op           kind  weight  inputs     output  why float
-------------------------------------------------------
stem.0       Conv  s8/ch0  s8         s8
conv1        Conv  s8/ch0  s8         s8
conv2        Conv  s8/ch0  s8
add          Add           float, s8
relu__call1  Relu          float      s8
head         Conv  s8/ch0  s8
6 of 6 ops quantized (4 with weights)\
""")


def test_a_model_with_nothing_to_quantize_is_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        qatc.prepare(nn.Sequential(nn.LayerNorm(8)), images())
    assert str(caught.value) == snapshot("""\
nothing in Sequential can be quantized for onnxruntime
  try: check that the model has layers of the target's table, and that no rule excludes them all\
""")


@pytest.mark.parametrize("given", [{"target": "onnx-runtime"}, {"config": "w8a9"}])
def test_an_unknown_name_proposes_the_nearest(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean '(onnxruntime|w8a8)'"):
        qatc.prepare(Classifier(), **given)


def test_a_float_checkpoint_loads_by_its_own_names() -> None:
    model, gm = randomise(ResidualIdentity(), seed=3), qatc.prepare(ResidualIdentity(), images())
    result = gm.load_state_dict(model.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all("_q" in key or "quantizer" in key for key in result.missing_keys)
    with qatc.float_mode(gm):
        close(evaluated(gm, [images()]), evaluated(model, [images()]), "output", TOLERANCE)


def test_warnings_are_not_shown_to_a_user() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared(Functional())


def test_fused_layers_are_the_torch_layers_that_they_were() -> None:
    gm = prepared(ResidualIdentity())
    fused = [m for m in gm.modules() if isinstance(m, Fused)]
    assert fused
    assert all(isinstance(m, nn.Conv2d) for m in fused)


def test_lines_are_those_of_the_library_that_wrote_the_model() -> None:
    """torchvision's folder begins with the name of torch's."""
    assert "# conv1 resnet.py:" in format_graph(qatc.prepare(network("resnet18")))
