"""What is not in the table is written by torch's exporter, in few pieces, named by the user's modules."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import LoweringError
from qatc.lowering import lowered_proto, verify
from qatc.lowering.emit import exporter, pieces
from tests.lowering.float_files import Function, check_file, float_file
from tests.models import images

FEW, MORE = images(2, 4, 6), images(5, 4, 6, seed=1)
# Sums in an order of the runtime's own are off by a few of the last of 24 bits.
TOLERANCE = 1e-6


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the names of the nodes of each piece that is exported."""
    found: list[list[str]] = []

    def noted(part: Any, inputs: Any, wanted: Any, opset: int) -> Any:
        found.append([node.name for node in wanted])
        return exporter.exported(part, inputs, wanted, opset)

    monkeypatch.setattr(pieces, "exported", noted)
    return found


def branches(x: Tensor) -> Any:
    high = x.std(1)
    low = high.prod(0)
    return torch.relu(high) + low, x.std(2).relu().logsumexp(1)


def test_a_run_of_unknown_nodes_is_one_piece_and_equal_ones_are_exported_once(exports: list[list[str]]) -> None:
    model = Function(branches)
    proto = float_file(model, FEW)
    assert exports == [["std", "prod"], ["std_1"], ["logsumexp"]]
    check_file(proto, model, MORE, tolerance=TOLERANCE)
    twice = Function(lambda x: x.std(1).relu().std(1) + (x + 1).std(1).relu().std(1))
    exports.clear()
    check_file(float_file(twice, FEW), twice, MORE, tolerance=TOLERANCE)
    assert exports == [["std"], ["std_1"]]


def test_a_piece_reads_no_node_that_reads_it(exports: list[list[str]]) -> None:
    """The last node reads the first one, and what a known node makes of it: all three in one would read themselves."""
    model = Function(lambda x: (lambda s: torch.logaddexp(s, s.relu()))(x.std(1)))
    check_file(float_file(model, FEW), model, MORE, tolerance=TOLERANCE)
    assert exports == [["std"], ["logaddexp"]]


def test_several_tensors_and_sizes_that_follow_the_batch(exports: list[list[str]]) -> None:
    def model(x: Tensor) -> Any:
        values, places = x.reshape(x.shape[0] * 2, 2, 6).topk(2, -1)
        return {"values": values.reshape(x.shape[0], -1), "places": places, "again": places, "first": x.sort(1)[0]}

    proto = float_file(Function(model), FEW)
    assert [len(piece) for piece in exports] == [3, 2]
    dims = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in proto.graph.output]
    assert dims == [["batch", 8], ["2*batch", 2, 2], ["2*batch", 2, 2], ["batch", 4, 6]]
    check_file(proto, Function(model), MORE)


class Recurrent(nn.Module):
    """A layer that only torch's exporter knows, between two that the table does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gru, self.last = nn.Linear(6, 8), nn.GRU(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        y, state = self.gru(self.first(x))
        return self.last(y), state


def test_a_layer_that_is_not_in_the_table_keeps_its_names() -> None:
    gm = qatc.prepare(Recurrent().eval(), FEW)
    qatc.calibrate(gm, [FEW], progress=False)
    lowered = lowered_proto(gm)
    assert verify(gm, lowered, {"x": MORE.numpy()}).passed
    proto = lowered.proto
    assert {"gru/GRU", "first/MatMul", "last/MatMul"} <= {node.name for node in proto.graph.node}
    inner = {
        node.name.partition("/")[0] for node in proto.graph.node if node.op_type in ("GRU", "Squeeze", "Transpose")
    }
    assert "gru" in inner


def test_what_has_no_form_at_all_is_an_error_that_names_it() -> None:
    with pytest.raises(LoweringError, match=r"could not export %lgamma: .*\n  at: .*test_emit_pieces.py:\d+"):
        float_file(Function(lambda x: torch.lgamma(x).relu()), FEW)
