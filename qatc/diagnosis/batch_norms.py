"""BatchNorms whose channels are dead, whose variance is next to nothing, or whose statistics were never measured."""

from collections.abc import Iterator

from torch import fx

from qatc import ir
from qatc.diagnosis.finding import Finding
from qatc.layers import layers_of
from qatc.modules.batch_norms import BatchNorm
from qatc.modules.fused import FusedBatchNorm

# gamma is the standard deviation of a channel's output. Below one 256th of the widest channel's it is less than a step
# of that tensor's 8-bit grid, which spans at least one standard deviation to each side: the channel is a constant.
DEAD_GAMMA = 1 / 256
# Below this multiple of eps the factor gamma / sqrt(var + eps) is set by eps rather than by the data (Ioffe and
# Szegedy, arXiv:1502.03167, algorithm 1, has eps for numerical stability alone).
TINY_VARIANCE = 1.0


def batch_norm_findings(gm: fx.GraphModule) -> Iterator[Finding]:
    """Yield what is wrong with each BatchNorm, fused or alone."""
    for node, path, bn in _batch_norms(gm):
        where = ir.source_of(node).location
        mean, variance = bn.running_mean, bn.running_var
        if mean is None or variance is None:
            continue
        channels = bn.num_features
        if bool((mean == 0).all()) and bool((variance == 1).all()):
            remedy = "load trained weights before qatc.prepare, or measure them: qatc.reestimate_bn(model, batches)"
            yield Finding("unmeasured statistics", path, where, "running mean 0 and variance 1 in all channels", remedy)
        tiny = int((variance < TINY_VARIANCE * bn.eps).sum())
        if tiny:
            figure = f"{tiny} of {channels} channels have a running variance below eps, the least {variance.min():.1e}"
            remedy = "measure them on the data: qatc.reestimate_bn(model, batches); a channel that stays so is constant"
            yield Finding("tiny variance", path, where, figure, remedy)
        if bn.weight is None:
            continue
        gamma = bn.weight.detach().abs()
        widest = gamma.max()
        dead = int((gamma <= DEAD_GAMMA * widest).sum())
        if dead:
            figure = f"{dead} of {channels} channels have |gamma| of at most 1/256 of the largest, {float(widest):.2g}"
            remedy = (
                f"remove the channels; or keep a scale for each: qatc.Rule({str(node.target)!r}, per_channel=True)"
                if bool(widest > 0)
                else "train in float until gamma has left zero, then prepare"
            )
            yield Finding("dead channels", path, where, figure, remedy)


def _batch_norms(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, str, BatchNorm]]:
    for layer in layers_of(gm):
        if layer.bn is not None:
            yield layer.node, layer.bn_path(), layer.bn
    for node, module in ir.module_calls(gm):
        if isinstance(module, FusedBatchNorm):
            yield node, str(node.target), module
