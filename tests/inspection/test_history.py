from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc import ir
from qatc.config import config_of
from qatc.inspection import NodeHistory, histories
from tests.inspection.networks import Pieces, Residual, calibrated, steps
from tests.models import conv, images
from tests.torchvision_networks import network


def history(model: nn.Module, folder: Path, config: Any = "w8a8") -> tuple[dict[str, NodeHistory], list[str]]:
    """Return the history of the model's nodes through the passes of prepare, and the names of these."""
    qatc.prepare(model, images(), config=config, dump_dir=folder)
    graphs, names = steps(folder)
    return histories(graphs, len(names)), names


def described(model: nn.Module, folder: Path, config: Any = "w8a8") -> dict[str, str]:
    found, names = history(model, folder, config)
    return {name: life.describe(names) for name, life in found.items()}


def test_it_says_where_each_node_is_from_what_changed_it_and_where_it_went(tmp_path: Path) -> None:
    assert described(Residual(), tmp_path) == snapshot(
        {
            "x": "from trace",
            "conv": "from trace; changed by fuse-conv-bn-act, insert-quantizers, leave-clips",
            "bn": "from trace; fuse-conv-bn-act gave its place to %conv (conv)",
            "relu": "from trace; fuse-conv-bn-act gave its place to %conv (conv)",
            "down": "from trace; fuse-conv-bn-act gave its place to %x (x)",
            "iadd": "from trace; changed by functionalize, functional-to-module, fuse-conv-bn-act, insert-quantizers",
            "relu_1": "from trace; changed by dedup-modules, leave-clips",
            "output": "from trace; changed by insert-quantizers",
            "x_q": "from insert-quantizers",
            "conv_q": "from insert-quantizers",
            "relu__call1_q": "from insert-quantizers",
        }
    )


def test_steps_are_numbers_into_the_list_of_all_steps(tmp_path: Path) -> None:
    found, names = history(Residual(), tmp_path)
    bn, conv_, x_q = found["bn"], found["conv"], found["x_q"]
    assert (bn.born, bn.last, bn.removed) == (0, names.index("fuse-conv-bn-act") - 1, names.index("fuse-conv-bn-act"))
    assert (bn.into, bn.into_path) == ("conv", "conv")
    assert (conv_.born, conv_.last, conv_.removed) == (0, len(names) - 1, None)
    assert (x_q.born, x_q.path) == (names.index("insert-quantizers"), "x_q")


def test_pieces_take_the_place_of_the_call_that_made_them(tmp_path: Path) -> None:
    found = described(Pieces(), tmp_path)
    assert found["chunk"] == snapshot("from trace; functional-to-module gave its place to %getitem (chunk)")


def test_a_decomposed_call_goes_into_its_last_part(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 3)

        def forward(self, x: Tensor) -> Any:
            return F.scaled_dot_product_attention(self.conv(x), x, x)

    assert described(Attention(), tmp_path)["scaled_dot_product_attention"] == snapshot(
        "from trace; decompose-composites gave its place to %matmul_1 (matmul_1)"
    )


def test_a_batch_norm_folded_into_the_layer_behind_it_is_part_of_that(tmp_path: Path) -> None:
    model = nn.Sequential(conv(3, 3), nn.Tanh(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))
    config = replace(config_of("w8a8"), batch_norm="folded")
    assert described(model, tmp_path, config)["_2"] == snapshot(
        "from trace; changed by fold-bn-self; fold-batch-norms gave its place to %_3 (3)"
    )


def test_lowering_says_what_became_of_what_it_took_out(tmp_path: Path) -> None:
    model = nn.Sequential(conv(3, 3), nn.Dropout(), nn.Conv2d(3, 4, 1))
    qatc.lower(calibrated(model), tmp_path / "m.onnx", dump_dir=tmp_path)
    graphs, names = steps(tmp_path)
    found = histories(graphs, len(names))
    assert {name: life.describe(names) for name, life in found.items() if life.removed is not None} == snapshot(
        {"_1": "from prepared; drop-inactive gave its place to %_0_q (0_q)"}
    )


def test_a_saved_model_still_says_what_its_nodes_took_over(tmp_path: Path) -> None:
    gm = calibrated(Residual())
    qatc.save(gm, tmp_path / "m.pt")
    saved = {node.name: ir.replaces(node) for node in qatc.load(tmp_path / "m.pt").graph.nodes}
    assert saved["conv"] == ("bn", "relu")


@pytest.mark.parametrize(
    ("name", "first", "taken"),
    [
        ("resnet18", "conv1", ["bn1", "relu"]),
        ("mobilenet_v2", "features_0_0", ["features_0_1", "features_0_2"]),
    ],
)
def test_no_layer_of_a_network_is_lost_on_the_way(name: str, first: str, taken: list[str], tmp_path: Path) -> None:
    """Whatever a pass takes out of these networks, some node takes over its place or work."""
    qatc.prepare(network(name), images(2, 3, 32, 32), dump_dir=tmp_path)
    graphs, names = steps(tmp_path)
    found = histories(graphs, len(names))
    gone = [life for life in found.values() if life.removed is not None]
    assert len(gone) > 20
    assert [life.name for life in gone if not life.into] == []
    assert [life.name for life in gone if life.into == first] == taken
