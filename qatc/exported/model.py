"""The module that a .pt2 file becomes: the model's own members, and its graph called step by step."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qatc.errors import CheckpointError, first_line
from qatc.exported.archive import EXPORT_AGAIN, read_archive
from qatc.exported.arguments import Ref, refs
from qatc.exported.calls import Call, first_of, function_of
from qatc.exported.layers import is_counting, layers_in
from qatc.exported.program import Program, Step, program_of
from qatc.ir import Source, TensorType
from qatc.tracing.frames import stated


@dataclass(frozen=True)
class Operation:
    """A step with what it calls: a function, or the layer at a path. `done` are the values that nothing reads after."""

    called: Call | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[str, ...]
    is_list: bool
    source: Source
    done: tuple[str, ...]


class ExportedModel(nn.Module):
    """A model read from a file of torch.export: ordinary torch calls, on layers with their own names.

    `inputs` are the types of its inputs by name; a size that the export left open is None.
    """

    inputs: Mapping[str, TensorType]
    operations: tuple[Operation, ...]
    members: Mapping[str, str]
    result: Any

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the program is for; None where the export left it open, or knows none."""
        first = next((kind.shape for kind in self.inputs.values() if kind.shape), (None,))
        return first[0]

    @property
    def batch_is_fixed(self) -> bool:
        """Whether it takes batches of one size alone, which tracing then opens no size for."""
        return self.fixed_batch is not None

    def run(self, values: Mapping[str, Tensor]) -> Any:
        """Return what the program gives for these inputs, by name."""
        known: dict[str, Any] = dict(values)

        def value_of(given: Any) -> Any:
            if isinstance(given, Ref):
                return known[given.name] if given.name in known else self._member(given.name)
            if isinstance(given, tuple | list):
                return type(given)(map(value_of, given))
            return {k: value_of(v) for k, v in given.items()} if isinstance(given, dict) else given

        for operation in self.operations:
            called = operation.called
            with stated(operation.source):
                call = self.get_submodule(called) if isinstance(called, str) else called
                result = call(*map(value_of, operation.args), **value_of(dict(operation.kwargs)))
            given = result if operation.is_list else (result,)
            known.update(zip(operation.results, given, strict=False))
            for name in operation.done:
                known.pop(name, None)
        return value_of(self.result)

    def _member(self, name: str) -> Tensor:
        owner, _, last = self.members[name].rpartition(".")
        found: Tensor = getattr(self.get_submodule(owner), last)
        return found


def load_exported(path: str | PathLike[str]) -> ExportedModel:
    """Return the model in a file that `torch.export.save` wrote, in eval mode, on the CPU.

    The file is read as data: no pickle but of plain tensors, no class or function but torch's public ones. A program
    exported in train mode is the model in eval mode: BatchNorms use their running statistics, dropout does nothing.

    Raises:
        CheckpointError: the file is missing, damaged, no such program, or calls what this version does not know.

    """
    path = Path(path)
    try:
        archive = read_archive(path)
        program = program_of(archive.program)
        return _built(program, archive.tensors).eval()
    except CheckpointError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        raise CheckpointError(error.what, where=where, remedy=error.remedy or EXPORT_AGAIN) from error.__cause__
    except OSError as error:
        raise CheckpointError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error
    except Exception as error:
        raise CheckpointError(
            f"the file is damaged: {type(error).__name__}: {first_line(error)[:200]}",
            where=str(path),
            remedy=EXPORT_AGAIN,
        ) from error


def _built(program: Program, tensors: Mapping[str, Tensor]) -> ExportedModel:
    layers = layers_in(program, tensors)
    called = {id(step): path for path, (_, steps) in layers.items() for step in steps}
    kept = [step for step in program.steps if not (id(step) in called and is_counting(step, program))]
    model = _class_of(program)()
    model.inputs, model.result = program.inputs, program.result
    model.members = {**program.parameters, **program.buffers}
    model.operations = tuple(_operations(kept, called, program))
    for path, (layer, _) in layers.items():
        if counter := tensors.get(f"{path}.num_batches_tracked"):
            layer._buffers["num_batches_tracked"] = counter
        _owner(model, path).add_module(path.rpartition(".")[2], layer)
    for name in model.members.values():
        owner, last = _owner(model, name), name.rpartition(".")[2]
        if name.rpartition(".")[0] in layers or last in (*owner._parameters, *owner._buffers):
            continue
        tensor = tensors[name]
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor, persistent=name not in program.temporary)
    return model


def _operations(steps: Sequence[Step], called: Mapping[int, str], program: Program) -> list[Operation]:
    result = program.result
    read = {name for step in steps for name in step.refs} | set(refs(result))
    functions: dict[int, tuple[Call | str | None, bool]] = {}
    for step in steps:
        first = first_of(step.op) if len(step.results) > 1 and read.isdisjoint(step.results[1:]) else None
        path = called.get(id(step))
        functions[id(step)] = (path or first or function_of(step.op), step.is_list and not (path or first))
    unknown = [step for step in steps if functions[id(step)][0] is None]
    if unknown:
        places = {s.op: f"{s.op.removeprefix('aten.')} ({s.source.location or 'unknown place'})" for s in unknown}
        shown = ", ".join(list(places.values())[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
        raise CheckpointError(
            f"the program calls {len(places)} ops that cannot be read: {shown}",
            remedy="export without run_decompositions, or give the model itself with --model package.module:factory",
        )
    _check_order(steps, {*program.inputs, *program.parameters, *program.buffers}, program.result)
    left = set(refs(result))
    made = []
    for step in reversed(steps):
        used = {*step.refs, *step.results}
        done, left = tuple(sorted(used - left)), left | used
        function, is_list = functions[id(step)]
        assert function is not None
        args = step.args[:1] if isinstance(function, str) else step.args
        made.append(Operation(function, args, step.kwargs, step.results, is_list, step.source, done))
    return made[::-1]


def _check_order(steps: Sequence[Step], known: set[str], result: Any) -> None:
    """Refuse a program that reads what is not there yet."""
    for read, made in (*((step.refs, step.results) for step in steps), (refs(result), ())):
        for name in read:
            if name not in known:
                raise CheckpointError(f"the file is damaged: its graph reads {name[:60]!r} before it is there")
        known.update(made)


def _owner(model: nn.Module, name: str) -> nn.Module:
    """Return the module that holds the member of that name; made where it is not there."""
    owner = model
    for part in name.split(".")[:-1]:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner


def _class_of(program: Program) -> type[ExportedModel]:
    """Return a class of its own for the program: the name of its model, and a `forward` with its inputs' names."""
    self_ = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in program.inputs]
    signature = inspect.Signature([self_, *named])

    def forward(self: ExportedModel, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs).arguments
        return self.run({name: bound[name] for name in program.inputs})

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return type(program.name, (ExportedModel,), {"forward": forward, "__module__": __name__})
