import copy
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.diagnosis import Finding, diagnose
from tests.models import Classifier, ConvBnAct, PreActivation, ResidualIdentity, conv, images, randomise
from tests.prepared import every_config, prepared

ONE_SCALE = qatc.QConfig(qatc.LayerConfig(per_channel=False))
FEW_BITS = qatc.QConfig(qatc.LayerConfig(weight_bits=4))


def normalized(change: Any = None) -> Any:
    """Return a trained-looking Conv, BatchNorm, ReLU, after a change."""
    model: Any = randomise(ConvBnAct(conv(3, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU()))
    if change is not None:
        with torch.no_grad():
            change(model)
    return model


def findings(model: nn.Module, config: str | qatc.QConfig = "w8a8", target: str = "onnxruntime") -> list[Finding]:
    return list(qatc.prepare(model, images(), target, config).report.findings)


@every_config
def test_a_sound_network_has_no_findings_at_eight_bits(config: str) -> None:
    kinds = {finding.kind for finding in prepared(ResidualIdentity(), config=config).report.findings}
    assert kinds <= ({"no BatchNorm at low bits"} if "w4" in config else set())


def set_gamma(model: Any) -> None:
    model.bn.weight[2] = 1e-6


def set_variance(model: Any) -> None:
    model.bn.running_var[1] = 1e-9


def forget_statistics(model: Any) -> None:
    model.bn.reset_running_stats()


def set_all_gammas(model: Any) -> None:
    model.bn.weight.zero_()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            set_gamma,
            snapshot("""\
dead channels at bn (FILE:LINE): 1 of 4 channels have |gamma| of at most 1/256 of the largest, 1.3
  try: remove the channels; or keep a scale for each: qatc.Rule('conv', per_channel=True)\
"""),
        ),
        (
            set_all_gammas,
            snapshot("""\
dead channels at bn (FILE:LINE): 4 of 4 channels have |gamma| of at most 1/256 of the largest, 0
  try: train in float until gamma has left zero, then prepare\
"""),
        ),
        (
            set_variance,
            snapshot("""\
tiny variance at bn (FILE:LINE): 1 of 4 channels have a running variance below eps, the least 1.0e-09
  try: measure them on the data: qatc.reestimate_bn(model, batches); a channel that stays so is constant\
"""),
        ),
        (
            forget_statistics,
            snapshot("""\
unmeasured statistics at bn (FILE:LINE): running mean 0 and variance 1 in all channels
  try: load trained weights before qatc.prepare, or measure them: qatc.reestimate_bn(model, batches)\
"""),
        ),
    ],
    ids=["gamma", "gammas", "variance", "statistics"],
)
def test_batch_norms(change: Any, expected: str) -> None:
    (finding,) = findings(normalized(change))
    assert finding.location.startswith("models.py:") or "models.py:" in finding.location
    assert without_line(str(finding), finding) == expected


def without_line(text: str, finding: Finding) -> str:
    return text.replace(finding.location, "FILE:LINE")


def test_a_batch_norm_alone_is_looked_at_too() -> None:
    model: Any = randomise(PreActivation())
    with torch.no_grad():
        model.bn1.running_var[0] = 0.0
    assert [(f.kind, f.layer) for f in findings(model)] == [("tiny variance", "bn1")]


@pytest.mark.parametrize(("skew", "found"), [(15.0, False), (17.0, True)])
def test_weights_of_one_scale_whose_channels_lose_half_of_their_bits(skew: float, found: bool) -> None:
    def change(model: Any) -> None:
        model.bn.weight.copy_((model.bn.running_var + model.bn.eps).sqrt())
        model.conv.weight.copy_(torch.ones(4, 3, 3, 3).where(images(4, 3, 3, 3) > 0, torch.tensor(-1.0)))
        model.conv.weight[0] /= skew

    assert not findings(normalized(change))  # a scale per channel suffers nothing
    kinds = [finding.kind for finding in findings(normalized(change), ONE_SCALE)]
    assert kinds == (["skewed weights"] if found else [])


def test_the_remedy_for_skewed_weights_removes_them() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.b(torch.relu(self.a(x)))

    model: Any = randomise(Two())
    with torch.no_grad():
        model.a.weight[0] *= 100
        model.b.weight[:, 0] /= 100
    gm = qatc.prepare(model, images(), config=ONE_SCALE)
    (finding,) = gm.report.findings
    assert finding.remedy == snapshot("a scale per channel: qatc.Rule('a', per_channel=True); or qatc.equalize(model)")
    qatc.equalize(gm)
    assert not gm.report.findings
    rule = qatc.Rule("a", per_channel=True)
    assert not findings(model, qatc.QConfig(ONE_SCALE.default, (rule,)))


def test_weights_at_few_bits() -> None:
    model: Any = randomise(Classifier())
    with torch.no_grad():
        model.conv.weight.abs_()
    texts = [without_line(str(finding), finding) for finding in findings(model, FEW_BITS)]
    assert "\n".join(texts) == snapshot("""\
one-sided weights at conv (FILE:LINE): lying to one side of zero, they use 50% of their 4-bit grid
  try: more bits: qatc.Rule('conv', weight_bits=8)
no BatchNorm at low bits at conv (FILE:LINE): 4-bit weights, and no BatchNorm that takes up the scale that they lose
  try: qatc.Rule('conv', weight_bits=8)
no BatchNorm at low bits at conv2 (FILE:LINE): 4-bit weights, and no BatchNorm that takes up the scale that they lose
  try: qatc.Rule('conv2', weight_bits=8)
no BatchNorm at low bits at fc (FILE:LINE): 4-bit weights, and no BatchNorm that takes up the scale that they lose
  try: qatc.Rule('fc', weight_bits=8)\
""")
    assert not [f for f in findings(normalized(), FEW_BITS) if f.kind == "no BatchNorm at low bits"]


def test_outlying_weights_are_measured_against_their_bulk() -> None:
    model: Any = randomise(nn.Sequential(nn.Flatten(), nn.Linear(192, 16)))
    with torch.no_grad():
        model[1].weight[3, 5] = 100.0
    found = {finding.kind: finding for finding in findings(model, ONE_SCALE)}
    weight = model[1].weight.detach()
    crest = weight.abs().max() / weight.square().mean().sqrt()
    assert f"{crest:.0f} times" in found["outlying weights"].figure
    gm = qatc.prepare(model, images(), config=ONE_SCALE)
    assert qatc.clip_weights(gm, magnitude=0.0)  # the remedy that it names
    assert "outlying weights" not in {finding.kind for finding in gm.report.findings}


def spiked() -> Tensor:
    batch = images(16, 3, 8, 8)
    batch[0, 0, 0, 0] = 1e4
    return batch


def test_outlying_activations_are_measured_against_all_that_was_recorded() -> None:
    gm = qatc.prepare(randomise(Classifier()), images())
    qatc.calibrate(gm, [images(seed=1), spiked()], progress=False)
    found = {finding.layer: finding.figure for finding in gm.report.findings}
    both = torch.cat([images(seed=1), spiked()])
    ratio = both.abs().max() / both.square().mean().sqrt()
    assert found["x_q"] == f"reaches 1e+04, {ratio:.0f} times its root mean square"
    qatc.calibrate(gm, [images(seed=1)], progress=False)
    assert not gm.report.findings


def test_what_was_recorded_is_saved_and_copied() -> None:
    gm = qatc.prepare(randomise(Classifier()), images())
    qatc.calibrate(gm, [spiked()], progress=False)
    assert gm.report.findings
    assert copy.deepcopy(gm).report.findings == gm.report.findings


def test_the_report_names_the_findings_and_where_they_are_whole() -> None:
    gm = qatc.prepare(normalized(forget_statistics), images(), config=FEW_BITS)
    assert str(gm.report).splitlines()[-3:] == snapshot(
        [
            "found: unmeasured statistics at bn",
            "print(model.report.diagnosis) has figures and remedies",
            "1 of 1 ops quantized (1 with weights)",
        ]
    )
    assert gm.report.diagnosis == "\n".join(map(str, diagnose(gm)))
    assert qatc.prepare(normalized(), images()).report.diagnosis == "nothing found"
