"""BatchNorms in forms that torch.nn does not have: frozen ones, and those whose statistics are arguments."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

BatchNorm = nn.modules.batchnorm._BatchNorm


class AnyBatchNorm(BatchNorm):
    """A BatchNorm of [N, C, ...] of any rank, which counts its batches only if it has a counter."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"a BatchNorm takes [N, C, ...], not {tuple(input.shape)}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.num_batches_tracked is not None:
            super()._load_from_state_dict(state_dict, prefix, *rest)
            return
        # torch's own method would add a counter to a state_dict without one, and then find it unexpected.
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)


class StaysInEval(nn.Module):
    """A module whose own mode is eval whatever `train()` says; its children follow."""

    @property
    def training(self) -> bool:
        """Never."""
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        """Stay in eval mode."""


class FrozenBatchNorm(StaysInEval, AnyBatchNorm):
    """A BatchNorm that always uses its running statistics, which with its weight and bias are buffers as a rule."""


class GivenBatchNorm(nn.Module):
    """`F.batch_norm` whose statistics and factors have names of their own: all are arguments."""

    def __init__(self, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum

    def forward(
        self,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return [N, C, ...] normalized; in training the statistics given are updated in place."""
        return F.batch_norm(x, running_mean, running_var, weight, bias, self.training, self.momentum, self.eps)


def same_tensors(kind: type[BatchNorm], owner: nn.Module, eps: float, momentum: float | None) -> BatchNorm:
    """Return a BatchNorm of that kind with the tensors and children of `owner`, under the names that they have."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for key in ("_parameters", "_buffers", "_modules"):
        made.__dict__[key].update(owner.__dict__[key])
    made._non_persistent_buffers_set = set(owner._non_persistent_buffers_set)
    present = {**owner._parameters, **owner._buffers}
    made._parameters |= {name: None for name in ("weight", "bias") if name not in present}
    made._buffers.setdefault("num_batches_tracked", None)
    made.num_features = len(present["running_mean"])  # type: ignore[arg-type]
    made.eps, made.momentum = eps, momentum
    made.affine, made.track_running_stats = present.get("weight") is not None, True
    made.training = owner.training
    return made
