"""BatchNorm in whatever dress the model wrote it, as the module that passes know.

It needs the user's own modules (their eps, momentum, mode and counter), which a graph module does not keep; so the
tracer calls it on its copy of the model, before it makes one.
"""

import copy
import inspect
import operator
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qatc import ir
from qatc.constants import constants
from qatc.modules.batch_norms import AnyBatchNorm, BatchNorm, FrozenBatchNorm, GivenBatchNorm, same_tensors
from qatc.tracing.leaves import is_frozen_norm

_TENSORS = ("weight", "bias", "running_mean", "running_var")
_ARGUMENTS = {
    F.batch_norm: tuple(inspect.signature(F.batch_norm).parameters),
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
}
_KINDS: dict[int, type[BatchNorm]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
# Frozen BatchNorms without an attribute for it have torch's own default (transformers' DetrFrozenBatchNorm2d).
_EPS = 1e-5


def restore_batch_norms(root: nn.Module, graph: fx.Graph) -> None:
    """Turn calls of F.batch_norm, and of modules that are frozen BatchNorms, into calls of BatchNorm modules.

    F.batch_norm on the members weight, bias, running_mean and running_var of one module (as timm's BatchNormAct2d has
    them) becomes a BatchNorm at that module's place, over the same tensors and children, which follows `train()` and
    `eval()` whatever the flag was when the model was traced; a frozen one where the owner computes the same in both
    modes. Statistics by other names become arguments. A frozen BatchNorm is replaced only if it computes what ours
    does, [followed by its children, as an activation].
    """
    known = constants(graph)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for node in list(graph.nodes):
        if node.op == "call_module" and _is_users_frozen(root.get_submodule(node.target)):
            _freeze(root, node)
        elif node.op == "call_function" and node.target in _ARGUMENTS:
            given = dict(zip(_ARGUMENTS[node.target], node.args, strict=False)) | node.kwargs
            stats = [given.get(name) for name in ("running_mean", "running_var")]
            plain = not any(isinstance(given.get(name), fx.Node) for name in ("training", "momentum", "eps"))
            # Traced in eval mode, so a flag that is set always is.
            if plain and not given.get("training") and all(isinstance(s, fx.Node) and s in known for s in stats):
                _restore(root, node, given, known, called)


def _is_users_frozen(module: nn.Module) -> bool:
    return is_frozen_norm(module) and not isinstance(module, FrozenBatchNorm)


def _restore(
    root: nn.Module, node: fx.Node, given: Mapping[str, Any], known: set[fx.Node], called: Collection[str]
) -> None:
    """Replace a call of F.batch_norm."""
    tensors = {name: given[name] for name in _TENSORS if given.get(name) is not None}
    eps, momentum = given.get("eps", _EPS), given.get("momentum", 0.1)
    if not all(isinstance(tensor, fx.Node) and tensor in known for tensor in tensors.values()):
        return  # conditional BatchNorm: its factors are data
    path = _owner_path(tensors)
    owner = None if path is None or path in called else _owner(root, path, tensors, eps)
    if path is None or owner is None:
        scope = ir.source_of(node).path
        path = ir.free_path(root, f"{scope}.batch_norm" if scope else "batch_norm")
        ir.set_module(root, path, GivenBatchNorm(eps, momentum).eval())
    else:
        tensors = {}
        kind = _kind(owner, node)
        if type(owner) is not kind:  # a second call finds what the first one made
            ir.set_module(root, path, same_tensors(kind, owner, eps, getattr(owner, "momentum", momentum)))
        _drop_rank_checks(node.graph, given["input"])
    x = given["input"]
    node.op, node.target, node.args, node.kwargs = "call_module", path, (x,), tensors


def _drop_rank_checks(graph: fx.Graph, x: fx.Node) -> None:
    """Erase assertions on the input's rank, which a BatchNorm checks itself: they would be readers of the input."""
    for ndim in [user for user in x.users if user.target is getattr and user.args == (x, "ndim")]:
        for test in list(ndim.users):
            if test.target is operator.eq:
                for assertion in [user for user in test.users if user.target is torch._assert]:
                    graph.erase_node(assertion)
            if not test.users:
                graph.erase_node(test)
        if not ndim.users:
            graph.erase_node(ndim)


def _owner_path(tensors: Mapping[str, fx.Node]) -> str | None:
    """Return the path of the one module that the tensors are members of, each under its own name."""
    paths = {str(tensor.target).rpartition(".")[::2] for tensor in tensors.values() if tensor.op == "get_attr"}
    owners = {owner for owner, _ in paths}
    same_names = {name for _, name in paths} == set(tensors)
    return owners.pop() if same_names and len(owners) == 1 and "" not in owners else None


def _owner(root: nn.Module, path: str, tensors: Mapping[str, fx.Node], eps: float) -> nn.Module | None:
    """Return the module at `path` if a BatchNorm can stand for it."""
    owner = root.get_submodule(path)
    present = {name for name in _TENSORS if getattr(owner, name, None) is not None}
    buffers = set(owner._buffers) >= {"running_mean", "running_var"}
    return owner if buffers and present == set(tensors) and getattr(owner, "eps", eps) == eps else None


def _kind(owner: nn.Module, node: fx.Node) -> type[BatchNorm]:
    """Return the kind of BatchNorm that the owner is."""
    if type(owner) in (*_KINDS.values(), AnyBatchNorm, FrozenBatchNorm):
        return type(owner)  # type: ignore[return-value]
    if not _follows_mode(owner):
        return FrozenBatchNorm
    counted = isinstance(owner._buffers.get("num_batches_tracked"), Tensor)
    written = next((kind for kind in _KINDS.values() if isinstance(owner, kind)), None)
    seen = ir.tensor_type(node)
    by_rank = None if seen is None else _KINDS.get(len(seen.shape))
    return (written or by_rank or AnyBatchNorm) if counted else AnyBatchNorm


def _follows_mode(owner: nn.Module) -> bool:
    """Say whether the module computes something else in training than in evaluation; True where it cannot be run."""
    twin = copy.deepcopy(owner)
    evaluated = next(_outputs(twin.eval()), None)
    trained = next(_outputs(twin.train()), None)
    return evaluated is None or trained is None or not _close(trained, evaluated)


def _freeze(root: nn.Module, node: fx.Node) -> None:
    """Replace a call of a user's frozen BatchNorm by ours, and calls of its children, if they compute the same."""
    path = str(node.target)
    owner = root.get_submodule(path)
    probe = copy.deepcopy(owner).eval()
    generator = torch.Generator().manual_seed(0)
    for name, buffer in probe._buffers.items():
        assert buffer is not None
        values = torch.randn(buffer.shape, generator=generator)
        # Variances down to a millionth show an eps that is another.
        buffer.copy_(10 ** (-3 + values) if name == "running_var" else values)
    eps = float(getattr(owner, "eps", _EPS))
    ours = same_tensors(FrozenBatchNorm, probe, eps, None)
    expected = next(_outputs(probe), None)
    children = [name for name, child in owner.named_children() if not isinstance(child, nn.Identity)]
    alone = nn.Sequential(ours)
    chain = nn.Sequential(ours, *(probe.get_submodule(name) for name in children))
    for behind, candidate in (([], alone), (children, chain)):
        found = next(_outputs(candidate), None)
        if expected is not None and found is not None and _close(found, expected):
            ir.set_module(root, path, same_tensors(FrozenBatchNorm, owner, eps, None))
            for name in reversed(behind):
                with node.graph.inserting_after(node):
                    child = node.graph.call_module(f"{path}.{name}", ())
                node.replace_all_uses_with(child)
                child.args = (node,)
                ir.inherit(child, node)
            return


def _outputs(module: nn.Module) -> Iterator[Tensor]:
    """Yield what the module gives for a small random input of the first rank that it takes."""
    like = module[0] if isinstance(module, nn.Sequential) else module
    statistics = like._buffers["running_mean"]
    assert statistics is not None
    for positions in ((3, 3), (3,), (), (3, 3, 3)):
        generator = torch.Generator().manual_seed(1)
        x = 1 + 2 * torch.randn((4, len(statistics), *positions), generator=generator)
        try:
            with torch.no_grad():
                result = module(x.to(statistics))
        except Exception:  # whatever the user's module raises on an input that is not of its kind
            continue
        if isinstance(result, Tensor):
            yield result


def _close(actual: Tensor, expected: Tensor) -> bool:
    """Say whether two results are one but for the rounding of a few float32 operations."""
    if actual.shape != expected.shape:
        return False
    return float((actual - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
