"""Activation checkpointing around a prepared model, and around the model that is prepared."""

import copy
from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import qatc
from qatc import native
from qatc.quantizers import Quantizer
from qatc.quantizers.weight import WeightQuantizer
from tests.models import ResidualIdentity, images
from tests.prepared import every_config, prepared

Stepped = tuple[dict[str, Tensor], dict[str, Tensor], Counter[str]]
reentrant = pytest.mark.parametrize("reentrant", [True, False])


def stepped(gm: qatc.PreparedModel, how: Any) -> Stepped:
    """Return the gradients and the state after one step of a copy, and how often each quantizer saw its batch."""
    gm = copy.deepcopy(gm)
    seen: Counter[str] = Counter()

    def counted(name: str, quantizer: Quantizer) -> None:
        observe = quantizer.observe

        def observed(x: Tensor, site: int) -> None:
            seen[name] += 1
            observe(x, site)

        quantizer.observe = observed  # type: ignore[method-assign]

    owners: dict[int, str] = {}
    for name, module in gm.named_modules():
        if isinstance(module, Quantizer) and not isinstance(module, WeightQuantizer):
            counted(name, module)
            owners |= {buffer.data_ptr(): name for buffer in module.buffers()}
    x = images(seed=5).requires_grad_()
    track = native.track

    def tracked(x: Tensor, averages: Tensor, *rest: Any) -> bool:
        seen[owners[averages.data_ptr()]] += 1
        return track(x, averages, *rest)

    with patch.object(native, "track", tracked):  # which does in one call what `observe` and `quantize` do
        how(gm, x).square().sum().backward()
    return {n: p.grad for n, p in gm.named_parameters() if p.grad is not None}, gm.state_dict(), seen


def check_same(ours: Stepped, theirs: Stepped) -> None:
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert mine.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in mine.items())
    assert ours[2] == theirs[2]


@reentrant
def test_a_checkpointed_step_is_the_plain_one(reentrant: bool) -> None:
    gm = prepared(ResidualIdentity()).train()
    gradients, state, seen = stepped(gm, lambda model, x: model(x))
    again, after, seen_again = stepped(gm, lambda model, x: checkpoint(model, x, use_reentrant=reentrant))
    assert set(seen.values()) == {1}
    assert seen_again == seen
    assert again.keys() == gradients.keys()
    # a BatchNorm itself sees the batch twice, as in every checkpointed float model; what is recomputed folds that in
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    for name, value in state.items():
        if name.rpartition(".")[2] not in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(after[name], value), name


@reentrant
@every_config
def test_with_frozen_batch_norms_it_is_the_plain_one_to_the_bit(config: str, reentrant: bool) -> None:
    gm = prepared(ResidualIdentity(), config=config).train()
    qatc.freeze_bn(gm)
    plain = stepped(gm, lambda model, x: model(x))
    again = stepped(gm, lambda model, x: checkpoint(model, x, use_reentrant=reentrant))
    check_same(again, plain)


_KEPT = (torch.ops.aten.convolution.default, torch.ops.aten.addmm.default)


def test_a_policy_keeps_what_is_dear_and_recomputes_what_quantization_adds() -> None:
    """What is kept for backward: selective checkpointing (torch's own) stores the layers' results alone."""
    gm = prepared(ResidualIdentity()).train()
    qatc.freeze_bn(gm)

    def policy(_: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if op in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE

    def selective(model: Any, x: Tensor) -> Any:
        return checkpoint(
            model, x, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy)
        )

    plain = stepped(gm, lambda model, x: model(x))
    again = stepped(gm, selective)
    check_same(again, plain)


@reentrant
def test_a_layer_of_the_prepared_model_can_be_checkpointed(reentrant: bool) -> None:
    gm = prepared(ResidualIdentity()).train()
    qatc.freeze_bn(gm)

    def layered(model: Any, x: Tensor) -> Any:
        layer = model.get_submodule("conv1")
        forward = layer.forward
        layer.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=reentrant, **kwargs)
        return model(x)

    plain = stepped(gm, lambda model, x: model(x))
    if reentrant:  # torch takes no keyword arguments there
        with pytest.raises(ValueError, match="Unexpected keyword arguments"):
            stepped(gm, layered)
        return
    again = stepped(gm, layered)
    check_same(again, plain)
