"""Modules and tensors as plain data, and back without calling a constructor.

Modules and tensors are listed once each and referred to by their numbers, so what was one object is one object again.
A module comes behind its children, so the last one is the root, and no file can describe a cycle.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qatc.checkpoint.names import Allowed, dotted_name, identifier, known_function, member_name
from qatc.checkpoint.plain import DTYPES, NotPlainError, decode, encode
from qatc.checkpoint.settings import setting, setting_readers
from qatc.errors import CheckpointError
from qatc.quantizers.base import Quantizer

Data = dict[str, Any]

# What every module has: its hooks, which are not saved, and its tensors, flags and children, which are saved by name.
MODULE_STATE = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}


def tree_data(root: nn.Module, hidden: frozenset[str]) -> tuple[list[Data], list[Data]]:
    """Return the modules and the tensors below and with `root`; the root's attributes in `hidden` are left out."""
    writer = _Writer(root)
    writer.add(root, "", nn.Module, hidden)
    return writer.modules, writer.tensors


class _Writer:
    """Numbers modules and tensors; the model keeps the objects alive that are known here by id."""

    def __init__(self, root: nn.Module) -> None:
        self.modules: list[Data] = []
        self.tensors: list[Data] = []
        self._module_numbers: dict[int, int] = {}
        self._tensor_numbers: dict[int, int] = {}
        for path, module in root.named_modules():
            for name, tensor in _own_tensors(module):
                if id(tensor) not in self._tensor_numbers:
                    self._tensor_numbers[id(tensor)] = len(self.tensors)
                    self.tensors.append(_tensor_data(tensor, f"{path}.{name}".lstrip(".")))

    def add(self, module: nn.Module, path: str, kind: type[nn.Module], hidden: frozenset[str] = frozenset()) -> int:
        """Return the number of the module, which is written as one of `kind`."""
        if id(module) not in self._module_numbers:
            record = self._record(module, path, kind, hidden)
            self._module_numbers[id(module)] = len(self.modules)
            self.modules.append(record)
        return self._module_numbers[id(module)]

    def _record(self, module: nn.Module, path: str, kind: type[nn.Module], hidden: frozenset[str]) -> Data:
        where = f"module {path!r} ({kind.__name__})"
        numbers = self._tensor_numbers
        try:
            for name in (*module._parameters, *module._buffers, *module._modules):
                member_name(name)
            return {
                "class": dotted_name(kind),
                "training": bool(module.training),
                "attributes": {name: self._attribute(name, value) for name, value in _attributes(module, hidden)},
                "parameters": {n: None if p is None else numbers[id(p)] for n, p in module._parameters.items()},
                "buffers": {n: None if b is None else numbers[id(b)] for n, b in module._buffers.items()},
                "not_persistent": sorted(module._non_persistent_buffers_set),
                "children": {
                    name: None if child is None else self.add(child, f"{path}.{name}".lstrip("."), type(child))
                    for name, child in module._modules.items()
                },
            }
        except CheckpointError as error:
            raise CheckpointError(error.what, where=error.where or where, remedy=error.remedy) from error

    def _attribute(self, name: str, value: Any) -> Any:
        try:
            identifier(name)
            return encode(value, self._no_value)
        except NotPlainError as error:
            raise CheckpointError(
                f"attribute {name!r} cannot be saved: it holds a {error}, not plain data",
                remedy="a tensor is saved as a parameter or buffer, a module as a submodule; anything else must go",
            ) from error

    def _no_value(self, value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) in self._tensor_numbers:
            return {"tensor": self._tensor_numbers[id(value)]}
        function = known_function(value)
        return setting(value) if function is None else {"function": function}


def _attributes(module: nn.Module, hidden: frozenset[str]) -> Iterator[tuple[str, Any]]:
    # __getstate__ and __setstate__ are torch's own protocol, by which an LSTM rebuilds its list of weights.
    state = module.__getstate__()
    return ((name, value) for name, value in state.items() if name not in MODULE_STATE | hidden)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, tensor) for name, tensor in module._parameters.items() if tensor is not None)
    yield from ((name, tensor) for name, tensor in module._buffers.items() if tensor is not None)


def _tensor_data(tensor: Tensor, name: str) -> Data:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if not plain or tensor.is_meta or tensor.is_quantized:
        raise CheckpointError(
            f"tensor {name!r} cannot be saved: it is a {type(tensor).__name__} on {tensor.device} ({tensor.layout})",
            remedy="a lazy layer is run once first, a sharded parameter is gathered, others become dense tensors",
        )
    data = tensor.detach()
    return {
        "data": data if _is_held(data) else data.clone(memory_format=torch.contiguous_format),
        "dtype": str(data.dtype).removeprefix("torch."),
        "shape": list(data.shape),
        "parameter": isinstance(tensor, nn.Parameter),
        "requires_grad": tensor.requires_grad,
    }


def _is_held(tensor: Tensor) -> bool:
    """Say whether the storage has a value for every element (an expanded tensor's has not)."""
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def build_tree(modules: Sequence[Data], tensors: Sequence[Data], allowed: Allowed) -> nn.Module:
    """Return the root of what `tree_data` described."""
    values = [_tensor(data) for data in tensors]
    built: list[nn.Module] = []
    for record in modules:
        built.append(_module(record, built, values, allowed))
    return built[-1]


def _tensor(data: Data) -> Tensor:
    tensor = data["data"]
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError("the file is damaged: something else stands where a tensor should")
    if tensor.dtype != DTYPES[data["dtype"]] or list(tensor.shape) != data["shape"] or not _is_held(tensor):
        raise CheckpointError(
            f"the file is damaged: a tensor declared as {data['dtype']}{data['shape']} is "
            f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} "
            f"in {tensor.untyped_storage().nbytes()} bytes"
        )
    if data["parameter"]:
        return nn.Parameter(tensor, requires_grad=bool(data["requires_grad"]))
    return tensor.requires_grad_(bool(data["requires_grad"]))


def _module(record: Data, built: Sequence[nn.Module], tensors: Sequence[Tensor], allowed: Allowed) -> nn.Module:
    kind = allowed.module_class(record["class"])
    readers = {
        **setting_readers(allowed),
        "function": Allowed().function,
        "tensor": lambda number: _at(tensors, number, Tensor),
    }
    attributes = {identifier(name): decode(value, readers) for name, value in record["attributes"].items()}
    if reserved := {name for name in attributes if name in MODULE_STATE or name.startswith("__")}:
        raise CheckpointError(f"the file is damaged: it sets {', '.join(sorted(reserved))} of a {kind.__name__}")
    module = kind.__new__(kind)
    if isinstance(module, Quantizer):
        Quantizer.__init__(module, attributes["spec"])  # sets the hook that follows load_state_dict
    else:
        nn.Module.__init__(module)
    state = {
        "training": bool(record["training"]),
        "_parameters": _members(record["parameters"], tensors, nn.Parameter),
        "_buffers": _members(record["buffers"], tensors, Tensor),
        "_non_persistent_buffers_set": {member_name(name) for name in record["not_persistent"]},
        "_modules": _members(record["children"], built, nn.Module),
    }
    module.__setstate__(attributes | state)
    return module


def _members(record: Mapping[str, Any], items: Sequence[Any], kind: type) -> dict[str, Any]:
    return {member_name(name): None if n is None else _at(items, n, kind) for name, n in record.items()}


def _at(items: Sequence[Any], number: Any, kind: type) -> Any:
    if type(number) is not int or not 0 <= number < len(items) or not isinstance(items[number], kind):
        raise CheckpointError(f"the file is damaged: it refers to a {kind.__name__} that it does not hold")
    return items[number]
