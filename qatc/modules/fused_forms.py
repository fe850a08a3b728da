"""Which torch layer has which fused form: a table, and the one question asked of it."""

from torch import nn

from qatc.modules.batch_norms import AnyBatchNorm, FrozenBatchNorm
from qatc.modules.fused import (
    Fused,
    FusedBatchNorm,
    FusedConv1d,
    FusedConv2d,
    FusedConv3d,
    FusedFrozenBatchNorm,
    FusedLinear,
    FusedSyncBatchNorm,
)
from qatc.modules.transposed import FusedConvTranspose1d, FusedConvTranspose2d, FusedConvTranspose3d

# The first type that a layer is an instance of decides.
FUSED_FORMS: dict[type[nn.Module], type[Fused]] = {
    nn.Conv1d: FusedConv1d, nn.Conv2d: FusedConv2d, nn.Conv3d: FusedConv3d, nn.Linear: FusedLinear,
    nn.ConvTranspose1d: FusedConvTranspose1d, nn.ConvTranspose2d: FusedConvTranspose2d,
    nn.ConvTranspose3d: FusedConvTranspose3d,
    nn.BatchNorm1d: FusedBatchNorm, nn.BatchNorm2d: FusedBatchNorm, nn.BatchNorm3d: FusedBatchNorm,
    nn.SyncBatchNorm: FusedSyncBatchNorm, FrozenBatchNorm: FusedFrozenBatchNorm, AnyBatchNorm: FusedBatchNorm,
}  # fmt: skip
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, AnyBatchNorm)

# What a subclass may define without computing anything else than its base does.
_HARMLESS = frozenset({"reset_parameters", "extra_repr"})
_COMPUTES = frozenset({"__call__", "__getattr__", "__getattribute__", "__setattr__", "__setstate__"})


def fused_form(layer: nn.Module) -> Fused | None:
    """Return the layer as its fused form (itself if it is one), or None for a kind that has none."""
    if isinstance(layer, Fused):
        return layer
    base = next((kind for kind in FUSED_FORMS if isinstance(layer, kind)), None)
    return FUSED_FORMS[base].from_float(layer) if base is not None and behaves_like(base, layer) else None


def behaves_like(base: type[nn.Module], layer: nn.Module) -> bool:
    """Say whether the layer, of a subclass of `base`, defines nothing anew that `base` has (its tensors included)."""
    anew: set[str] = set()
    for kind in type(layer).__mro__[: type(layer).__mro__.index(base)]:
        anew |= {name for name in vars(kind) if not name.startswith("__") or name in _COMPUTES}
    return not (anew - _HARMLESS) & {*dir(base), "weight", "bias", "running_mean", "running_var", *_COMPUTES}
