"""Inputs and outputs of any form, from prepare to a file that is verified."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from inline_snapshot import snapshot
from torch import fx, nn

import qatc
from qatc import ir
from qatc.arguments import arguments_of
from qatc.cli import lower_main
from qatc.errors import CheckpointError, LoweringError, VerificationError
from qatc.lowering import lowered_proto, verify
from qatc.lowering.flatten_outputs import FlattenOutputs, output_nodes
from qatc.nested import tensors
from qatc.prepared import remember
from qatc.runtimes import RUNTIMES
from tests.models import images, randomise
from tests.signatures import (
    Dataclasses,
    Defaults,
    DictInDictOut,
    Found,
    Frame,
    IdsAndMask,
    KeywordOnly,
    ListOfDicts,
    NamedTuples,
    NestedTuple,
    Several,
    Table,
    Unusual,
    Variadic,
    WholeContainer,
    samples,
)
from tests.test_nested import Output

ALLOWED = ("tests.signatures.Frame", "tests.signatures.Found", ".image", ".depth")
EXPECTED: dict[type[nn.Module], str] = {
    DictInDictOut: "batch_image[N,3,8,8] batch_depth[N,1,8,8] -> sum[N,4,8,8] depth[N,4,8,8]",
    NestedTuple: "x[N,3,8,8] others_0[N,1,8,8] others_1_0[N,1,8,8] -> output_0[N,4,8,8] output_1_0[N,4,8,8]",
    NamedTuples: "frame_image[N,3,8,8] frame_depth[N,1,8,8] -> image[N,4,8,8] depth[N,4,8,8]",
    Dataclasses: "sample_image[N,3,8,8] sample_depth[N,1,8,8] -> boxes[N,4,8,8] scores_depth[N,4,8,8]",
    KeywordOnly: "x[N,3,8,8] depth[N,1,8,8] -> output[N,4,8,8]",
    Defaults: "x[N,3,8,8] depth[N,1,8,8] -> output[N,4,8,8]",
    Variadic: "given_0[N,3,8,8] given_1[N,1,8,8] -> output[N,4,8,8]",
    IdsAndMask: "ids[N,5] mask[N,5] -> output[N,5,4]",
    ListOfDicts: "x[N,3,8,8] depth[N,1,8,8] -> output_0_features[N,4,8,8] output_1_features[N,4,8,8]",
    Unusual: "x[N,3,8,8] -> output_x[N,3,8,8] anchors[6] scale[3] first[N,4,8,8] again[N,4,8,8]",
    Table: "x[N,3,8,8] table[4,5] -> output[N,5]",
    Several: "x[N,3,8,8] -> output_0[N,2,8,8] output_1[N,2,8,8]",
}


def signature(proto: onnx.ModelProto) -> str:
    """Return names and shapes of a file's inputs and outputs."""

    def text(value: onnx.ValueInfoProto) -> str:
        dims = value.type.tensor_type.shape.dim
        return f"{value.name}[{','.join('N' if d.dim_param == 'batch' else str(d.dim_value) for d in dims)}]"

    return f"{' '.join(map(text, proto.graph.input))} -> {' '.join(map(text, proto.graph.output))}"


def prepared(kind: type[nn.Module], target: str = "onnxruntime") -> qatc.PreparedModel:
    model = qatc.prepare(randomise(kind()), samples(0)[kind], target)
    qatc.calibrate(model, [samples(1)[kind], samples(2)[kind]], progress=False)
    return model.eval()


def arrays(model: qatc.PreparedModel, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return a batch as the data that a file is verified with."""
    bound = arguments_of(batch, model.forward).bound(model.forward)
    return {name.replace(".", "_"): tensor.numpy() for name, tensor in tensors(bound)}


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_a_model_of_any_signature_reaches_a_verified_file(kind: type[nn.Module], target: str, tmp_path: Path) -> None:
    model = prepared(kind, target)
    qatc.save(model, tmp_path / "model.pt")
    loaded = qatc.load(tmp_path / "model.pt", allow=ALLOWED).eval()
    assert loaded.prepared_for == model.prepared_for
    given = arguments_of(samples(3)[kind], model.forward)
    result, expected = (tensors(m(*given.args, **given.kwargs)) for m in (loaded, model))
    assert [name for name, _ in result] == [name for name, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(result, expected, strict=True))

    lowered = lowered_proto(loaded)
    assert signature(lowered.proto) == EXPECTED[kind]
    data = arrays(loaded, samples(3)[kind])
    check = verify(loaded, lowered, data)
    assert check.passed, str(check)
    assert check.sqnr > 100
    feeds = {value.name: data[value.name] for value in lowered.proto.graph.input}
    found = RUNTIMES["onnxruntime"].session(lowered.proto)(feeds).values()
    for (_, ours), theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours.detach(), rtol=0, atol=1e-5)


def test_without_example_inputs_the_file_is_the_same(tmp_path: Path) -> None:
    for kind in (DictInDictOut, KeywordOnly, Dataclasses):
        model = qatc.prepare(randomise(kind()))
        qatc.calibrate(model, [samples(1)[kind]], progress=False)
        lowered = lowered_proto(model)
        assert signature(lowered.proto) == EXPECTED[kind]
        assert verify(model, lowered, arrays(model, samples(3)[kind])).passed


def test_inputs_are_noted_by_their_paths() -> None:
    made_for = prepared(NestedTuple).prepared_for
    assert made_for is not None
    assert [str(given) for given in made_for.inputs or ()] == snapshot(
        ["x float32 [N, 3, 8, 8]", "others.0 float32 [N, 1, 8, 8]", "others.1.0 float32 [N, 1, 8, 8]"]
    )


def test_an_input_that_was_once_seen_with_another_size_than_the_batchs_has_no_batch() -> None:
    made_for = prepared(Table).prepared_for
    assert made_for is not None
    assert [str(given) for given in made_for.inputs or ()] == ["x float32 [N, 3, 8, 8]", "table float32 [4, 5]"]
    model = prepared(Table)
    qatc.calibrate(model, [(images(4, 3, 8, 8), images(4, 5))], progress=False)
    assert model.prepared_for == made_for


def test_data_that_does_not_fit_is_told_names_types_and_shapes() -> None:
    model = prepared(IdsAndMask)
    lowered, data = lowered_proto(model), arrays(model, samples(3)[IdsAndMask])
    with pytest.raises(VerificationError) as caught:
        verify(model, lowered, {"ids": data["ids"]})
    assert str(caught.value) == snapshot("""\
the data has arrays ['ids'], the model inputs ['ids', 'mask']
  try: write np.savez(file, ids=..., mask=...); expected: ids int64 [N, 5], mask float32 [N, 5]\
""")
    with pytest.raises(VerificationError) as caught:
        verify(model, lowered, data | {"mask": data["mask"][:, :4]})
    assert str(caught.value) == snapshot("""\
array 'mask' is float32 [4, 4]
  try: expected: ids int64 [N, 5], mask float32 [N, 5]\
""")
    with pytest.raises(VerificationError, match="different numbers of samples"):
        verify(model, lowered, data | {"mask": data["mask"][:3]})
    with pytest.raises(VerificationError, match=r"array 'ids' is int32"):
        verify(model, lowered, data | {"ids": data["ids"].astype(np.int32)})


def test_data_may_have_what_the_model_never_reads_and_nothing_else() -> None:
    model = prepared(Unusual)
    lowered, data = lowered_proto(model), arrays(model, samples(3)[Unusual])
    assert set(data) == {"x", "unread"}
    assert verify(model, lowered, data).passed
    assert verify(model, lowered, {"x": data["x"]}).passed
    with pytest.raises(VerificationError, match=r"the data has arrays \['labels', 'x'\]"):
        verify(model, lowered, {"x": data["x"], "labels": data["x"]})


def test_data_in_batches_keeps_an_input_without_a_batch_whole() -> None:
    model = prepared(Table)
    data = {"x": images(35, 3, 8, 8).numpy(), "table": images(4, 5, seed=7).numpy()}
    check = verify(model, lowered_proto(model), data)
    assert check.passed
    assert check.codes > 35 * 3 * 8 * 8


def test_the_command_verifies_with_an_array_per_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = prepared(DictInDictOut)
    qatc.save(model, tmp_path / "model.pt")
    np.savez(tmp_path / "data.npz", **arrays(model, samples(3)[DictInDictOut]))  # type: ignore[arg-type]
    assert lower_main([str(tmp_path / "model.pt"), "--verify", str(tmp_path / "data.npz")]) == 0
    assert capsys.readouterr().out.endswith("verified\n")


def test_loading_says_which_classes_of_the_users_it_needs(tmp_path: Path) -> None:
    qatc.save(prepared(Dataclasses), tmp_path / "model.pt")
    needed: list[str] = []
    for _ in range(3):
        with pytest.raises(CheckpointError) as caught:
            qatc.load(tmp_path / "model.pt", allow=needed)
        needed.append(str(caught.value).partition("allow=('")[2].partition("'")[0])
    assert needed == [".image", ".depth", "tests.signatures.Found"]
    qatc.load(tmp_path / "model.pt", allow=needed)


def test_an_argument_that_is_used_whole_is_an_error_that_names_it() -> None:
    model = qatc.prepare(randomise(WholeContainer()))
    qatc.calibrate(model, [(images(), [images(4, 4, 8, 8)] * 2)], progress=False)
    with pytest.raises(LoweringError) as caught:
        lowered_proto(model)
    assert str(caught.value) == snapshot("""\
%stack uses the argument 'others' as a whole, which is no tensor
  at: signatures.py:119
  try: give qatc.prepare example_inputs: the graph then reads the tensors in it one by one\
""")


def test_a_part_that_was_no_tensor_is_an_error_that_names_it() -> None:
    model = qatc.prepare(randomise(DictInDictOut()), samples(0)[DictInDictOut])
    qatc.calibrate(model, [samples(1)[DictInDictOut]], progress=False)
    assert model.prepared_for is not None
    remember(model, replace(model.prepared_for, inputs=(model.prepared_for.inputs or ())[:1]))
    with pytest.raises(LoweringError) as caught:
        lowered_proto(model)
    assert str(caught.value) == snapshot("""\
%getitem_1 reads a part of the argument 'batch' that was no tensor when inputs were last seen
  try: calibrate with all inputs; last seen: batch.image\
""")


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda g, x, y: g.call_function(Output, ({"logits": y, "hidden": None},)), ["logits"]),
        (
            lambda g, x, y: g.call_function(Output, (), {"logits": y, "hidden": (x, y)}),
            ["logits", "hidden_0", "hidden_1"],
        ),
        (lambda g, x, y: g.call_function(Found, (y, [x]), {"note": {"a": y}}), ["boxes", "scores_0", "note_a"]),
        (lambda g, x, y: g.call_function(Frame, (x, y)), ["image", "depth"]),
        (lambda g, x, y: {"deep": g.call_function(Found, (), {"boxes": y, "scores": 1})}, ["deep_boxes"]),
        (lambda g, x, y: [y, None, y], ["output_0", "output_2"]),
        (lambda g, x, y: {"x": y, 3: y, "a b": y, "a.b": y}, ["output_x", "output_3", "a_b", "output_a_b"]),
        (lambda g, x, y: y, ["output"]),
        (lambda g, x, y: (y,), ["output_0"]),
    ],
)
def test_outputs_are_named_by_where_they_stood(returned: Callable[..., Any], names: list[str]) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.relu, (x,))
    for node in (x, y):
        ir.set_tensor_type(node, ir.TensorType(torch.float32, (None, 3)))
    graph.output(returned(graph, x, y))
    gm = fx.GraphModule(nn.Module(), graph)
    FlattenOutputs().run(gm)
    gm.graph.lint()
    assert list(output_nodes(gm)) == names
    assert all(isinstance(value, torch.Tensor) for _, value in tensors(gm(images(2, 3))))
    assert not [node for node in gm.graph.nodes if isinstance(node.target, type)]
    assert FlattenOutputs().run(gm) is False


def test_a_model_that_returns_no_tensor_is_an_error() -> None:
    graph = fx.Graph()
    graph.placeholder("x")
    graph.output({"size": 3})
    with pytest.raises(LoweringError, match="returns no tensor"):
        FlattenOutputs().run(fx.GraphModule(nn.Module(), graph))
