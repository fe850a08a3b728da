import json
import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import networkx as nx
import pytest
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.inspection import FORMATS, as_graphml, as_json, graph_data
from qatc.inspection.graph_data import text_of
from qatc.printer import format_graph, format_node
from tests.inspection.networks import Pieces, Residual, calibrated
from tests.models import conv, images


def nodes(gm: qatc.PreparedModel) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in graph_data(gm)["nodes"]}


def test_a_node_is_its_line_part_by_part() -> None:
    gm = calibrated(Residual(), config="w8a8-pow2")
    node = nodes(gm)["conv"]
    assert node.pop("text") == next(format_node(n) for n in gm.graph.nodes if n.name == "conv")
    assert node.pop("line") > 0
    assert node == snapshot(
        {
            "name": "conv",
            "op": "call_module",
            "kind": "FusedConv2d",
            "inputs": ["x_q"],
            "type": "f32[N,3,8,8]",
            "path": "conv",
            "file": "networks.py",
            "attributes": "k3 p1 act=ReLU",
            "quant": "w=s8/ch0/pow2",
            "why_float": "",
            "fused_into": "",
            "part_of": "",
            "replaces": ["bn", "relu"],
            "range": None,
            "weight": False,
        }
    )


def test_every_node_has_the_same_keys_and_is_plain_data() -> None:
    graph = graph_data(calibrated(Residual()))
    assert {tuple(node) for node in graph["nodes"]} == {tuple(graph["nodes"][0])}
    assert json.loads(json.dumps(graph)) == graph


def test_the_text_is_the_printers() -> None:
    gm = calibrated(Pieces())
    assert text_of(graph_data(gm)) == format_graph(gm) == FORMATS["text"](gm)


def test_inputs_are_the_nodes_read_without_the_modules_that_are_given() -> None:
    found = {name: node["inputs"] for name, node in nodes(calibrated(Residual())).items()}
    assert found == snapshot(
        {
            "x": [],
            "x_q": ["x"],
            "conv": ["x_q"],
            "conv_q": ["conv"],
            "iadd": ["conv_q", "x_q"],
            "relu_1": ["iadd"],
            "relu__call1_q": ["relu_1"],
            "output": ["relu__call1_q"],
        }
    )


def test_a_quantizer_has_the_range_of_its_grid_once_it_is_known() -> None:
    prepared, known = qatc.prepare(Residual(), images()), calibrated(Residual(), config="w8a8-pow2")
    assert nodes(prepared)["x_q"]["range"] is None
    low, high = nodes(known)["x_q"]["range"]
    x, scale = images(seed=1), (high - low) / 255
    assert low - scale <= float(x.min()) < 0 < float(x.max()) <= high  # the zero point is even
    assert scale == 2 ** round(math.log2(scale))
    assert nodes(known)["conv"]["range"] is None


def test_what_is_computed_from_parameters_alone_is_a_weight() -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            weight = self.conv.weight
            return nn.functional.conv2d(x, weight - weight.mean())

    found = {name: node["weight"] for name, node in nodes(calibrated(Standardised())).items()}
    assert found == snapshot(
        {
            "x": False,
            "x_q": False,
            "conv_weight": True,
            "mean": True,
            "sub": True,
            "conv2d": False,
            "conv2d_q": False,
            "output": False,
        }
    )


def test_reasons_and_fusions_are_part_of_it() -> None:
    class Float(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = conv(3, 4), nn.Hardswish()

        def forward(self, x: Tensor) -> Any:
            return self.act(self.conv(x)).softmax(1)

    found = nodes(calibrated(Float(), "tensorrt"))
    assert {name: node["why_float"] for name, node in found.items() if node["why_float"]} == snapshot(
        {"act": "fused to the layer in front", "softmax": "Softmax is not quantized on this target"}
    )


def test_json_has_a_node_a_line() -> None:
    graph = graph_data(calibrated(Pieces()))
    text = as_json(graph)
    assert json.loads(text) == graph
    assert len(text.splitlines()) == len(graph["nodes"]) + 2
    assert FORMATS["json"](calibrated(Pieces())) == text


def test_graphml_is_read_back_by_networkx() -> None:
    gm = calibrated(Residual())
    graph = graph_data(gm)
    read = nx.parse_graphml(FORMATS["graphml"](gm))
    assert list(read) == [node["name"] for node in graph["nodes"]]
    assert set(read.edges) == {(source, node["name"]) for node in graph["nodes"] for source in node["inputs"]}
    attributes = dict(read.nodes["conv"])
    assert attributes.pop("line") > 0
    assert re.sub(r"py:\d+", "py:LINE", attributes.pop("text")).endswith("# conv networks.py:LINE")
    assert attributes == snapshot(
        {
            "op": "call_module",
            "kind": "FusedConv2d",
            "type": "f32[N,3,8,8]",
            "path": "conv",
            "file": "networks.py",
            "attributes": "k3 p1 act=ReLU",
            "quant": "w=s8/ch0",
            "weight": False,
            "replaces": "bn relu",
        }
    )
    assert (read.nodes["x_q"]["low"], read.nodes["x_q"]["high"]) == tuple(graph["nodes"][1]["range"])


@pytest.mark.parametrize("name", ['<"&>', "a&b"])
def test_graphml_escapes_what_xml_must_not_hold(name: str) -> None:
    graph = graph_data(calibrated(Residual()))
    graph["nodes"][0]["path"] = name
    keys = {key.get("id"): key.get("attr.name") for key in ElementTree.fromstring(as_graphml(graph)) if key.get("id")}
    data = ElementTree.fromstring(as_graphml(graph)).iter("{http://graphml.graphdrawing.org/xmlns}data")
    assert name in [d.text for d in data if keys[d.get("key")] == "path"]
