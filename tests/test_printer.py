import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.printer import diff, format_graph
from qatc.trace import trace
from tests.models import Classifier, conv, images


class Everything(nn.Module):
    """Every kind of node and argument that a graph may have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), groups=2, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.conv(torch.cat([x, y], 1)) * self.scale
        z = z.to(torch.float32)[:, 0:2].sum(dim=(2,), keepdim=True)
        return z, {"half": z / 2}


def test_one_line_a_node_with_kind_type_attributes_and_name() -> None:
    gm = trace(Everything(), [images(2, 2, 8, 8), images(2, 2, 8, 8)])
    assert format_graph(gm, locations=False) == snapshot("""\
%x = input() : f32[N,2,8,8]  # x
%y = input() : f32[N,2,8,8]  # y
%cat = cat([%x, %y], 1) : f32[N,4,8,8]
%conv = Conv2d(%cat) : f32[N,8,4,4]  k3x5 s2 p1x2 g2  # conv
%scale = parameter(scale) : f32[1]  # scale
%mul = mul(%conv, %scale) : f32[N,8,4,4]
%to = to(%mul, float32) : f32[N,8,4,4]
%getitem = getitem(%to, (slice(None, None, None), slice(0, 2, None))) : f32[N,2,4,4]
%sum_1 = sum(%getitem, dim=(2,), keepdim=True) : f32[N,2,1,4]
%truediv = truediv(%sum_1, 2) : f32[N,2,1,4]
return (%sum_1, {'half': %truediv})
""")


def test_a_prepared_model_shows_its_grids() -> None:
    gm = qatc.prepare(Classifier(), images(), config="w8a8-pow2")
    assert format_graph(gm, locations=False) == snapshot("""\
%x = input() : f32[N,3,8,8]  # x
%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym/pow2  # x_q
%conv = FusedConv2d(%x_q, grid=%x_q, then=%conv_q) : f32[N,4,8,8]  k3 p1 act=ReLU6  w=s8/ch0/pow2  # conv
%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/pow2  # conv_q
%pool = MaxPool2d(%conv_q) : f32[N,4,4,4]  k2 s2  # pool
%conv2 = FusedConv2d(%pool, grid=%conv_q, then=%conv2_q) : f32[N,4,4,4]  k3 p1 act=ReLU  w=s8/ch0/pow2  # conv2
%conv2_q = Tracked(%conv2) : f32[N,4,4,4]  u8/pow2  # conv2_q
%flatten = Flatten(%conv2_q) : f32[N,64]  # flatten
%fc = FusedLinear(%flatten, grid=%conv2_q) : f32[N,5]  w=s8/ch0/pow2  # fc
return %fc
""")


def test_without_example_inputs_there_are_no_types() -> None:
    assert " : " not in format_graph(qatc.prepare(Classifier()))


def test_locations_are_those_of_the_users_lines() -> None:
    model = Classifier()
    line = Classifier.forward.__code__.co_firstlineno + 1
    text = format_graph(trace(model, [images()]))
    assert f"# pool models.py:{line}\n" in text
    assert f"# fc models.py:{line + 1}\n" in text


def test_two_prints_of_one_model_are_the_same_text() -> None:
    first, second = (format_graph(qatc.prepare(Classifier(), images())) for _ in range(2))
    assert first == second


def test_a_diff_shows_only_what_changed() -> None:
    before = format_graph(trace(nn.Sequential(conv(3, 4), nn.ReLU()), [images()]), locations=False)
    after = format_graph(trace(nn.Sequential(conv(3, 4), nn.GELU()), [images()]), locations=False)
    assert diff(before, after) == snapshot("""\
-%_1 = ReLU(%_0) : f32[N,4,8,8]  # 1
+%_1 = GELU(%_0) : f32[N,4,8,8]  # 1
""")
    assert diff(before, before) == ""
    assert diff(before, after, context=9).splitlines()[0] == " %input_1 = input() : f32[N,3,8,8]  # input"
