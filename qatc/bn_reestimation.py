"""BatchNorm re-estimation: running statistics measured anew, with the quantized weights that will deploy."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qatc.batches import arguments_in
from qatc.errors import CalibrationError, ConfigError
from qatc.modules.batch_norms import BatchNorm, StaysInEval
from qatc.modules.fused import Fused
from qatc.ranks import all_ranks

# As AIMET's reestimate_bn_stats takes.
STEPS = 100


class Reestimation:
    """The statistics that BatchNorms had before; `undo` puts them back."""

    def __init__(self, batch_norms: Iterable[BatchNorm]) -> None:
        self._before = [(bn, _clone(bn.running_mean), _clone(bn.running_var)) for bn in batch_norms]

    def __len__(self) -> int:
        """Return the number of BatchNorms that were measured."""
        return len(self._before)

    @torch.no_grad()
    def undo(self) -> None:
        """Give every BatchNorm the statistics that it had, bit for bit."""
        for bn, mean, variance in self._before:
            assert bn.running_mean is not None
            assert bn.running_var is not None
            bn.running_mean.copy_(mean)
            bn.running_var.copy_(variance)


@torch.no_grad()
def reestimate_bn(
    model: nn.Module, batches: Iterable[Any], *, steps: int = STEPS, progress: bool = True
) -> Reestimation:
    """Set every BatchNorm's running mean and variance to the means of its batch means and (unbiased) variances.

    Moving averages lag behind weights that oscillate between two codes, and at few bits the statistics of the weights
    as they are differ much from them (Nagel et al., arXiv:2203.11086; AIMET's reestimate_bn_stats).
    Everything but the BatchNorms is in eval mode meanwhile; modes, counters, momenta and freezing come back as they
    were. BatchNorms that never use batch statistics are left. Over several ranks it is the mean of theirs.

    Args:
        model: a model, prepared as a rule; its statistics are changed in place.
        batches: batches as for `qatc.calibrate`, of the size trained with.
        steps: how many batches to take.
        progress: whether to show a progress bar.

    Returns:
        What takes it back: `reestimate_bn(...).undo()`.

    Raises:
        ConfigError: the model has no BatchNorm with running statistics.
        CalibrationError: there was no batch.

    """
    found = [m for m in model.modules() if isinstance(m, BatchNorm) and _measures(m)]
    if not found:
        raise ConfigError(
            "the model has no BatchNorm with running statistics", remedy="there is nothing to measure: leave it out"
        )
    before = Reestimation(found)
    count = 0
    states = [_State(bn) for bn in found]
    modes = {module: (module.training, getattr(module, "bn_frozen", None)) for module in model.modules()}
    try:
        model.eval()
        for module in model.modules():
            if isinstance(module, Fused):
                module.bn_frozen = False
        for bn in found:
            _measure(bn)
        for given in arguments_in(batches, model, steps, title="re-estimate BatchNorm", progress=progress):
            model(*given.args, **given.kwargs)
            count += 1
    except BaseException:
        before.undo()
        raise
    finally:
        for module, (training, frozen) in modes.items():
            module.training = training
            if isinstance(module, Fused):
                module.bn_frozen = bool(frozen)
        for state in states:
            state.restore()
    if count == 0:
        raise CalibrationError(
            "there was no batch to measure statistics on", remedy="pass a loader that yields batches"
        )
    if all_ranks():
        for bn in found:
            for statistic in (bn.running_mean, bn.running_var):
                assert statistic is not None
                torch.distributed.all_reduce(statistic)
                statistic /= torch.distributed.get_world_size()
    return before


def _measures(bn: BatchNorm) -> bool:
    return bn.track_running_stats and bn.running_mean is not None and not isinstance(bn, StaysInEval)


class _State:
    """What `_measure` changes of a BatchNorm."""

    def __init__(self, bn: BatchNorm) -> None:
        self.bn, self.momentum, self.counter = bn, bn.momentum, bn.num_batches_tracked

    def restore(self) -> None:
        self.bn.momentum, self.bn.num_batches_tracked = self.momentum, self.counter


def _measure(bn: BatchNorm) -> None:
    """Let the BatchNorm keep the plain mean over all batches from now on: torch's meaning of momentum=None."""
    assert bn.running_mean is not None
    bn.momentum = None
    bn.num_batches_tracked = torch.zeros((), dtype=torch.long, device=bn.running_mean.device)
    bn.training = True


def _clone(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.clone()
