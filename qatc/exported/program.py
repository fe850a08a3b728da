"""The graph of a .pt2 file as steps: plain values and names, taken from its JSON text (schema.py of torch 2.13)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from qatc.checkpoint.names import identifier, member_name
from qatc.errors import CheckpointError
from qatc.exported.archive import EXPORT_AGAIN
from qatc.exported.arguments import Ref, argument, refs, structured
from qatc.exported.codes import DTYPES
from qatc.ir import Source, TensorType

_FRAME = re.compile(r'File "([^"\n]*)", line (\d+)')
_CALL_NUMBER = re.compile(r"@\d+")
_TORCHS = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]")
# Blocks that change no value, by the number of their arguments before the graph.
_BLOCKS = {"torch.ops.higher_order.wrap_with_set_grad_enabled": 1, "torch.ops.higher_order.wrap_with_autocast": 4}


@dataclass(frozen=True)
class Step:
    """One call: `op` as `aten.conv2d`, its arguments with `Ref`s, the names of its results, and where it was written.

    `module` is the class of the innermost module that it was called in; `rank` that of its first tensor argument.
    """

    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[str, ...]
    is_list: bool
    source: Source
    module: str = ""
    rank: int | None = None

    @property
    def refs(self) -> Iterator[str]:
        """The names that it reads."""
        yield from refs((self.args, tuple(self.kwargs.values())))


@dataclass(frozen=True)
class Program:
    """A whole graph: the types of its inputs, the members it reads (name in the graph to that in the model), its steps.

    `result` is what it returns, with `Ref`s; `name` the class of the model.
    """

    name: str
    inputs: Mapping[str, TensorType]
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    temporary: frozenset[str]
    steps: tuple[Step, ...]
    result: Any


def program_of(data: Mapping[str, Any]) -> Program:
    """Return the program in the JSON of a file; a `CheckpointError` for what this version does not read."""
    module = data["graph_module"]
    graph, signature = module["graph"], module["signature"]
    inputs: dict[str, TensorType] = {}
    members: dict[str, dict[str, str]] = {"parameter": {}, "buffer": {}}
    temporary = set()
    for spec in signature["input_specs"]:
        ((kind, given),) = spec.items()
        match kind:
            case "user_input":
                value = argument(given["arg"])
                if not isinstance(value, Ref) or value.name not in graph["tensor_values"]:
                    raise CheckpointError(
                        "the program takes a number as input, which a file for a runtime has as a tensor",
                        remedy="export a model whose inputs are tensors",
                    )
                inputs[identifier(value.name)] = _type(graph["tensor_values"][value.name])
            case "parameter" | "buffer":
                members[kind][given["arg"]["name"]] = member_path(given[f"{kind}_name"])
                if not given.get("persistent", True):
                    temporary.add(given["buffer_name"])
            case "tensor_constant":
                members["buffer"][given["arg"]["name"]] = member_path(given["tensor_constant_name"])
                temporary.add(given["tensor_constant_name"])
            case "constant_input":
                pass  # None, or a number that the program was made for
            case _:
                raise CheckpointError(f"the program takes an input of kind {str(kind)[:40]!r}", remedy=EXPORT_AGAIN)
    outputs = [argument(s["user_output"]["arg"]) for s in signature["output_specs"] if "user_output" in s]
    steps = tuple(_steps(graph, ""))
    calls = module["module_call_graph"]
    spec = calls[0]["signature"]["out_spec"] if calls and calls[0].get("signature") else ""
    return Program(
        _class_of(graph), inputs, members["parameter"], members["buffer"], frozenset(temporary),
        tuple(_needed(steps, set(refs(outputs)))), structured(spec, outputs),
    )  # fmt: skip


def member_path(name: Any) -> str:
    """Return the dotted name of a member, if every part of it is one that generated code can hold."""
    for part in str(name).split("."):
        member_name(part)
    return str(name)


def _steps(graph: Mapping[str, Any], prefix: str) -> Iterator[Step]:
    for node in graph["nodes"]:
        if node["target"] in _BLOCKS:
            yield from _block(node, _BLOCKS[node["target"]], graph, prefix)
            continue
        given = [(n["name"], argument(n["arg"], prefix), n.get("kind")) for n in node["inputs"]]
        args = tuple(value for _, value, kind in given if kind != 2)
        kwargs = {identifier(name): value for name, value, kind in given if kind == 2}
        results = [argument(output, prefix) for output in node["outputs"]]
        is_list = len(results) == 1 and isinstance(results[0], list)
        names = tuple(refs(results))
        op = str(node["target"]).removeprefix("torch.ops.")
        source, module = _source(node["metadata"])
        yield Step(op, args, kwargs, names, is_list or len(names) > 1, source, module, _rank(graph, node))


def _block(node: Mapping[str, Any], before: int, graph: Mapping[str, Any], prefix: str) -> Iterator[Step]:
    """Yield the steps of a block (torch.no_grad) as steps of the graph around it."""
    arguments = [n["arg"] for n in node["inputs"]]
    inner = next((a["as_graph"] for a in arguments if "as_graph" in a), None)
    if inner is None or ("autocast" in node["target"] and arguments[2].get("as_bool") is not False):
        source, _ = _source(node["metadata"])
        raise CheckpointError(
            "the program has a block under torch.autocast", where=source.location, remedy="export the model in float32"
        )
    name = f"{prefix}{inner['name']}."
    body = inner["graph"]
    given = [argument(a, prefix) for a in arguments if "as_graph" not in a][before:]
    for own, value in zip(body["inputs"], given, strict=True):
        yield _same(_only(own, name), value)
    yield from _steps(body, name)
    results = [r for output in node["outputs"] for r in refs(argument(output, prefix))]
    for result, value in zip(results, refs([argument(o, name) for o in body["outputs"]]), strict=True):
        yield _same(result, Ref(value))


def _only(data: Mapping[str, Any], prefix: str) -> str:
    (found,) = refs(argument(data, prefix))
    return found


def _same(name: str, value: Any) -> Step:
    return Step("aten.alias.default", (value,), {}, (name,), False, Source())


def _type(meta: Mapping[str, Any]) -> TensorType:
    sizes = (size.get("as_int") for size in meta["sizes"])
    return TensorType(DTYPES[meta["dtype"]], tuple(size if type(size) is int else None for size in sizes))


def _rank(graph: Mapping[str, Any], node: Mapping[str, Any]) -> int | None:
    first = node["inputs"][0]["arg"].get("as_tensor") if node["inputs"] else None
    meta = graph["tensor_values"].get(first["name"]) if first else None
    return None if meta is None else len(meta["sizes"])


def _source(metadata: Mapping[str, str]) -> tuple[Source, str]:
    """Return where a step was written, and the class of the module that it is in."""
    frames = [f for f in _FRAME.findall(metadata.get("stack_trace", "")) if not _TORCHS.search(f[0])]
    file, line = frames[-1] if frames else ("", "0")
    stack = metadata.get("nn_module_stack", "").split(";")[-1].split(",")
    path, module = (stack[1], stack[2]) if len(stack) == 3 else ("", "")
    path = _CALL_NUMBER.sub("", path)
    return Source(member_path(path) if path else "", PurePath(file).name, int(line)), module


def _class_of(graph: Mapping[str, Any]) -> str:
    """Return the name of the model's class, by which messages call it."""
    stacks = [node["metadata"].get("nn_module_stack", "").split(";")[0] for node in graph["nodes"]]
    outermost = Counter(stack for stack in stacks if stack).most_common(1)
    name = outermost[0][0].rpartition(",")[2].rpartition(".")[2] if outermost else ""
    return name if name.isidentifier() else "Exported"


def _needed(steps: Sequence[Step], wanted: set[str]) -> list[Step]:
    """Leave out steps that nothing reads and that write nothing: checks of sizes, as a rule."""
    kept = []
    for step in reversed(steps):
        name = step.op.split(".")[1] if step.op.startswith("aten.") else step.op
        writes = name.endswith("_") and not name.startswith("_")
        if wanted & set(step.results) or writes:
            kept.append(step)
            wanted |= set(step.refs)
    return kept[::-1]
