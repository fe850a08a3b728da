"""The learning rate of quantized steps: scaled for the length of the step, so that whoever sets it need not know."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

_scaled: WeakKeyDictionary[Optimizer, list[RemovableHandle]] = WeakKeyDictionary()


def scale_learning_rate(optimizer: Optimizer, factor: Callable[[], float]) -> None:
    """Make every step of the optimizer at its learning rate times `factor()`; a later call replaces an earlier one.

    `group["lr"]` is scaled during `optimizer.step()` alone. So the factor counts once whatever sets the rate: a
    scheduler that computes it from its base (`LambdaLR`, `OneCycleLR`) would undo a change that lasts, and one that is
    loaded from a checkpoint together with it would repeat it.
    """
    for handle in _scaled.pop(optimizer, ()):
        handle.remove()
    kept: list[Any] = []

    def scale(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        restore(optimizer, args, kwargs)  # of a step that raised
        if (by := factor()) != 1.0:
            kept.extend(group["lr"] for group in optimizer.param_groups)
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * by

    def restore(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group, lr in zip(optimizer.param_groups, kept, strict=False):
            group["lr"] = lr
        kept.clear()

    _scaled[optimizer] = [optimizer.register_step_pre_hook(scale), optimizer.register_step_post_hook(restore)]
