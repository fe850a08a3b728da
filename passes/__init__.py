"""The passes, in the order in which they run: the table of contents of the compiler."""

if __name__ != "qatc.passes":
    raise ImportError("import qatc.passes: a second copy of these modules would have classes of its own")

from qatc.config import QConfig
from qatc.passes.constrain_pow2_scales import ConstrainPow2Scales
from qatc.passes.decompose_composites import DecomposeComposites
from qatc.passes.dedup_modules import DedupModules
from qatc.passes.fold_batch_norms import FoldBatchNorms
from qatc.passes.fold_bn_self import FoldBnSelf
from qatc.passes.functional_to_layer import FunctionalToLayer
from qatc.passes.functional_to_module import FunctionalToModule
from qatc.passes.functionalize import Functionalize
from qatc.passes.fuse_conv_bn_act import FuseConvBnAct
from qatc.passes.insert_quantizers import InsertQuantizers
from qatc.passes.leave_clips import LeaveClips
from qatc.passes.share_scales import ShareScales
from qatc.passes.train_batch_norms import TrainBatchNorms
from qatc.pipeline import Pass, Pipeline
from qatc.targets import Target


def qat_pipeline(target: Target, config: QConfig) -> Pipeline:
    """Return the passes from a traced float model to one that trains as it will deploy on `target`."""
    passes: tuple[Pass, ...] = (
        DedupModules(),  # one call site per module, so what is attached to it belongs to one tensor
        Functionalize(),  # x += y -> x + y, so an edge of the graph is a value
        DecomposeComposites(),  # attention -> products, each with quantizers of its own
        FunctionalToLayer(),  # F.conv2d -> a layer that the graph gives its weight
        FunctionalToModule(),  # F.relu -> nn.ReLU, so later passes match modules only
        FuseConvBnAct(),
        FoldBnSelf(),  # a BatchNorm with no layer to fold into
        *_batch_norms(config.batch_norm),
        *_placement(target, config),
    )
    return Pipeline(passes)


def placement_pipeline(target: Target, config: QConfig) -> Pipeline:
    """Return the passes that place quantizers, for a graph that `qat_pipeline` made and whose quantizers are gone."""
    return Pipeline(_placement(target, config), holds=InsertQuantizers.requires)


def _placement(target: Target, config: QConfig) -> tuple[Pass, ...]:
    rounding = "up" if config.pow2 is True or (target.pow2 and not config.pow2) else config.pow2
    return (
        InsertQuantizers(target, config),
        ShareScales(target),  # tensors that the target wants on one grid
        *((ConstrainPow2Scales(rounding),) if rounding else ()),
        LeaveClips(),  # a matter of speed alone
    )


def _batch_norms(mode: str) -> tuple[Pass, ...]:
    """Return the pass that makes BatchNorms train in that mode; none for the one that they train in anyway."""
    match mode:
        case "batch":
            return ()
        case "folded":
            return (FoldBatchNorms(),)
        case _:
            return (TrainBatchNorms(mode),)


__all__ = [
    "ConstrainPow2Scales", "DecomposeComposites", "DedupModules", "FoldBatchNorms", "FoldBnSelf",
    "FunctionalToLayer", "FunctionalToModule", "Functionalize", "FuseConvBnAct", "InsertQuantizers", "LeaveClips",
    "ShareScales", "TrainBatchNorms", "placement_pipeline", "qat_pipeline",
]  # fmt: skip
