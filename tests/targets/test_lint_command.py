"""`qatc lint`: what it prints, its exit codes, and that no file makes it fall over."""

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qatc.cli import main
from qatc.targets.lint import RULE_LISTS, RULES, lint
from tests.targets.lint_graphs import CONV, pair, parse

CLEAN = parse(f"{CONV} y = Relu (h)")
FAULTY = parse(f"{CONV} {pair('h', zero='u')} y = Relu (hd)", u=np.array(3, np.uint8))


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    onnx.save(CLEAN, tmp_path / "clean.onnx")
    return tmp_path / "clean.onnx"


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    onnx.save(FAULTY, tmp_path / "faulty.onnx")
    return tmp_path / "faulty.onnx"


def run(*args: object) -> int:
    return main(["lint", *map(str, args)])


def test_a_clean_file(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clean, "--target", "tensorrt") == 0
    assert capsys.readouterr().out == f"{clean}: 24 rules of tensorrt: 0 errors, 0 warnings, 0 notes\n"


def test_a_faulty_file(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(faulty, "--target", "tensorrt") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("error: TRT01 h_q: zero point is 3")
    assert lines[-1].endswith("24 rules of tensorrt: 4 errors, 1 warnings, 0 notes")
    assert len(lines) == 6


def test_json(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(faulty, "--target", "tensorrt", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["errors"], found["warnings"], found["notes"]) == ("tensorrt", 4, 1, 0)
    assert found["findings"][0] == {
        "rule": "TRT01",
        "severity": "error",
        "node": "h_q",
        "message": "zero point is 3; quantize this tensor symmetrically (int8, zero point 0)",
    }


def test_rules_are_picked_and_left_out(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(faulty, "--target", "tensorrt", "--rules", "TRT10") == 0
    assert "1 rules of tensorrt: 0 errors, 1 warnings" in capsys.readouterr().out
    assert run(faulty, "--target", "tensorrt", "--rules", "trt10", "--warnings-as-errors") == 1
    assert run(faulty, "--target", "tensorrt", "--ignore", "TRT01,TRT02") == 0
    assert run(faulty, "--target", "tensorrt", "--rules", "TRT0*", "--ignore", "TRT01", "--ignore", "TRT02") == 0


@pytest.mark.parametrize("target", RULE_LISTS)
def test_rules_are_listed(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-rules", "--target", target) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, RULES[name].severity] for name in RULE_LISTS[target]]
    assert run("--list-rules", "--target", target, "--json") == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == list(RULE_LISTS[target])


def test_all_rules_are_listed_without_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-rules") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(RULES)


def test_a_file_of_qatc_names_its_target(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clean) == 2
    assert "--target NAME" in capsys.readouterr().err
    model = onnx.load(clean)
    helper.set_model_props(model, {"qatc.target": "tensorrt"})
    onnx.save(model, clean)
    assert run(clean) == 0
    assert "rules of tensorrt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--target", "tensorrd"], "did you mean 'tensorrt'"),
        (["--target", "tensorrt", "--rules", "TRT99"], "unknown lint rule of tensorrt 'TRT99'"),
        (["--target", "tensorrt", "--rules", "ORT01"], "unknown lint rule of tensorrt 'ORT01'"),
    ],
)
def test_bad_arguments(args: list[str], said: str, clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clean, *args) == 2
    assert said in capsys.readouterr().err


def test_no_file_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--target", "tensorrt") == 2
    assert "no file is given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no graph"),
        (b"this is no model, but a text\n", "not an ONNX model"),
        (CLEAN.SerializeToString()[:-7], "cut short"),
        (CLEAN.SerializeToString()[:40], "cut short"),
        (b"PK\x03\x04" + bytes(64), "not an ONNX model"),
        (onnx.ModelProto(ir_version=9).SerializeToString(), "no graph"),
    ],
)
def test_bad_files(content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert run(path, "--target", "tensorrt") == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none.onnx", "--target", "tensorrt") == 2
    assert "No such file" in capsys.readouterr().err
    assert run(tmp_path, "--target", "tensorrt") == 2


def test_a_file_too_large_for_protobuf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)
    assert run(path, "--target", "tensorrt") == 2
    assert "external data" in capsys.readouterr().err


def with_external_data(folder: Path) -> Path:
    model = onnx.ModelProto()
    model.CopyFrom(CLEAN)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weights.CopyFrom(numpy_helper.from_array(np.full((16, 16, 1, 1), -128, np.int8), "w"))
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_are_read_where_they_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_external_data(tmp_path)
    assert run(path, "--target", "tensorrt") == 0
    assert "warning: TRT22 w_q: weight codes reach -128" in capsys.readouterr().out
    assert [f.rule for f in lint(onnx.load(path, load_external_data=False), RULE_LISTS["tensorrt"])] == []


def test_external_data_that_are_missing_cut_or_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_external_data(tmp_path)
    data = tmp_path / "weights.bin"
    content = data.read_bytes()
    data.write_bytes(content[:100])
    assert run(path, "--target", "tensorrt") == 2
    assert "are cut short: weights.bin" in capsys.readouterr().err
    data.unlink()
    assert run(path, "--target", "tensorrt") == 2
    assert "are missing: weights.bin" in capsys.readouterr().err
    (tmp_path / "in").mkdir()
    data.write_bytes(content)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../weights.bin"
    (tmp_path / "in" / "model.onnx").write_bytes(model.SerializeToString())
    assert run(tmp_path / "in" / "model.onnx", "--target", "tensorrt") == 2
    assert "outside the model's folder" in capsys.readouterr().err


def test_other_domains_functions_and_bodies() -> None:
    """Operators of other domains, calls of functions, loops and an opset of the future."""
    model = parse(f"{CONV} k = com.acme.Mystery (h) {pair('k')} y = Relu (kd)", opset=99)
    model.functions.append(helper.make_function("local", "f", ["a"], ["b"], [], [helper.make_opsetid("", 18)]))
    model.graph.node.append(helper.make_node("f", ["y"], ["unused"], domain="local"))
    body = helper.make_graph([helper.make_node("Relu", ["hd"], ["r"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["s", "s"], ["looped"], body=body))
    assert {finding.node for finding in lint(model, list(RULES))} <= {
        *(str(node.name) for node in model.graph.node),
        "Add->y",
    } | {f"{node.op_type}->{node.output[0]}" for node in model.graph.node}


OPS = [
    *("QuantizeLinear", "DequantizeLinear", "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "Clip"),
    *("Relu", "Sigmoid", "Softmax", "MaxPool", "AveragePool", "Reshape", "Transpose", "Split", "Resize", "ReduceMean"),
    *("Pad", "BatchNormalization", "Identity", "Cast", "Constant", "PRelu", "Tanh", "LayerNormalization", "Loop"),
]
TYPES = [TensorProto.FLOAT, TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.COMPLEX64, TensorProto.INT4, 77]


def mutated(model: onnx.ModelProto, pick: random.Random) -> onnx.ModelProto:
    """Change a model at one place as no exporter would, and some would."""
    graph = model.graph
    node = pick.choice(graph.node) if graph.node else graph.node.add()
    tensor = pick.choice(graph.initializer) if graph.initializer else graph.initializer.add()
    names = [name for other in graph.node for name in (*other.input, *other.output)] or [""]
    kind = pick.randrange(12)
    if kind == 0:
        node.op_type = pick.choice(OPS)
    elif kind == 1 and node.input:
        node.input[pick.randrange(len(node.input))] = pick.choice([*names, ""])
    elif kind == 2 and node.output:
        node.output[0] = pick.choice([*names, ""])
    elif kind == 3:
        del graph.node[pick.randrange(len(graph.node)) :]
    elif kind == 4:
        tensor.data_type = pick.choice(TYPES)
    elif kind == 5:
        tensor.dims[:] = pick.choices([0, 1, 2, 16, -3, 2**40], k=pick.randrange(5))
    elif kind == 6:
        tensor.raw_data = bytes(pick.randrange(256) for _ in range(pick.randrange(9)))
    elif kind == 7:
        node.attribute.append(helper.make_attribute(pick.choice(["axis", "pads", "alpha", "perm", "mode"]), "text"))
    elif kind == 8:
        node.attribute.append(helper.make_attribute(pick.choice(["axis", "axes", "group", "perm"]), [7, -9]))
    elif kind == 9:
        node.domain = pick.choice(["com.microsoft", "ai.onnx", "x"])
    elif kind == 10:
        model.opset_import[0].version = pick.choice([-1, 1, 12, 21, 2**40])
    else:
        graph.node.append(node)
    return model


BASES = [
    CLEAN,
    FAULTY,
    parse(f"{CONV} r = Clip (h, s, t) {pair('r')} p = Concat <axis = 1> (rd, xd) {pair('p')} y = Sigmoid (pd)"),
    parse(f"{CONV} {pair('h')} a = Add (hd, xd) {pair('a')} t1 = ReduceMean (ad) y = Mul (ad, t1)"),
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(base=st.sampled_from(range(len(BASES))), seed=st.integers(0, 2**32), times=st.integers(1, 8))
def test_no_mutated_file_makes_a_rule_raise(base: int, seed: int, times: int) -> None:
    pick = random.Random(seed)
    model = onnx.ModelProto.FromString(BASES[base].SerializeToString())
    for _ in range(times):
        model = mutated(model, pick)
    for finding in lint(model, list(RULES)):
        assert finding.node
        assert finding.message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damaged_bytes_make_the_command_raise(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(FAULTY.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged.onnx").write_bytes(content)
    assert run(tmp_path / "damaged.onnx", "--target", data.draw(st.sampled_from(sorted(RULE_LISTS)))) in {0, 1, 2}
