"""The state of the float model inside a prepared one: which names are its own, into the prepared model and back out."""

import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from qatc.errors import QatcError
from qatc.layers import layers_of
from qatc.quantizers import Quantizer

if TYPE_CHECKING:
    from qatc.prepared import PreparedModel

log = logging.getLogger("qatc")

# Name in the float model's state_dict, and in the prepared model's; an empty text where prepare left that part out.
FloatNames = tuple[tuple[str, str], ...]


def float_names(model: nn.Module, prepared: nn.Module) -> FloatNames:
    """Return the names of the float model's state, with those that they have in the prepared one."""
    own = prepared.state_dict(keep_vars=True)
    return tuple((name, _found(name, own)) for name in model.state_dict(keep_vars=True))


def _found(name: str, own: dict[str, Any]) -> str:
    first, dot, rest = name.partition(".")
    renamed = f"{first}_{dot}{rest}"  # as tracing renames what a graph module has of its own
    return name if name in own else renamed if renamed in own else ""


def quantizer_names(model: nn.Module) -> set[str]:
    """Return the names of the quantizers' state in the model's state_dict."""
    found = (name for name, module in model.named_modules() if isinstance(module, Quantizer))
    prefixes = tuple(f"{name}." for name in found)
    return {name for name in model.state_dict(keep_vars=True) if name.startswith(prefixes)}


def float_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the state that the float model has, under its names: what its `load_state_dict` takes.

    The tensors are the prepared model's own, not copies. Parts that `prepare` left out (branches that only training
    takes) are not in it. Wrappers (DDP, torch.compile, AveragedModel) are looked through.

    Raises:
        QatcError: the model was not prepared, or by a version that did not note the names.

    """
    inner = unwrapped(model)
    names = getattr(getattr(inner, "prepared_for", None), "float_names", None)
    if names is None:
        raise QatcError(
            f"it is not known which state a {type(inner).__name__} has from a float model",
            remedy="give the model that qatc.prepare returned",
        )
    state = inner.state_dict()
    return {name: state[own] for name, own in names if own}


def completed(state: dict[str, Any], prefix: str, model: "PreparedModel") -> bool:
    """Make a float model's state one of the prepared model, in place: what only that has stays as it is.

    Return whether it was one. A state with anything of a quantizer is none: it must be whole. What prepare left out is
    not missed either way.
    """
    names = None if model.prepared_for is None else model.prepared_for.float_names
    if names is None or any(prefix + name in state for name in quantizer_names(model)):
        return False
    known = {own for _, own in names if own}
    for name, own in names:
        if name != own and prefix + name in state:
            value = state.pop(prefix + name)
            if own:
                state[prefix + own] = value
    for name, value in model.state_dict(keep_vars=True).items():
        if name not in known:
            state[prefix + name] = value
    return True


# The weights as they were, by layer, of models that a float model's state is being loaded into.
_LOADING: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def begin_again_after(model: "PreparedModel") -> None:
    """Let quantizers that began with a weight (learned steps) begin again where loading a float state changes it."""
    _LOADING[model] = {name: weight.clone() for name, (_, weight) in _beginnings(model).items()}
    if _begin_again not in model._load_state_dict_post_hooks.values():
        model.register_load_state_dict_post_hook(_begin_again)


def _begin_again(model: nn.Module, _keys: object) -> None:
    before = _LOADING.pop(model, {})
    for name, (quantizer, weight) in (_beginnings(model) if before else {}).items():
        if not torch.equal(weight, before[name]):
            quantizer.begin(weight)
            log.info("%s: its weight was loaded, so its quantizer begins again", name)


def _beginnings(model: nn.Module) -> dict[str, tuple[Quantizer, Tensor]]:
    """Return the weight quantizers that began with their weights, with those as they are, by layer; unsharded."""
    assert isinstance(model, fx.GraphModule)
    found = {}
    with torch.no_grad():
        for layer in layers_of(model):
            quantizer = layer.module.weight_quantizer
            if quantizer is not None and quantizer.begins and not hasattr(layer.module.weight, "full_tensor"):
                found[layer.name] = (quantizer, layer.to_quantize().detach())
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that a wrapper hands its arguments to: DDP, torch.compile, AveragedModel, timm's ModelEma."""
    for name in _INNER:
        inner = model._modules.get(name)
        if inner is not None and _is_wrapper(model, name):
            return unwrapped(inner)
    return model


_INNER = ("_orig_mod", "module")
_WRAPPERS = ("DistributedDataParallel", "DataParallel", "AveragedModel", "ModelEmaV2", "ModelEmaV3")


def _is_wrapper(model: nn.Module, name: str) -> bool:
    return name == "_orig_mod" or any(kind.__name__ in _WRAPPERS for kind in type(model).__mro__)
