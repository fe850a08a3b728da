"""What a TorchFunctionMode does not see (trap 6): autograd and scripted functions, checkpoint, numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

import qatc
from qatc.errors import QatcWarning, TraceError
from qatc.ir import notes
from qatc.trace import trace
from tests.check_pass import evaluated
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_same, check_trace, place, targets


class Rounded(torch.autograd.Function):
    """Rounds, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: float) -> Tensor:
        return torch.round(x / step) * step

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


class Halves(torch.autograd.Function):
    """Two results, whose gradients are not theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        first, second = x.chunk(2, 1)
        return first.sign(), second.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return torch.cat([grads[0] * 3, grads[1]], 1) * x.abs().clamp(max=1)


class StraightThrough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(2, 4)

    def forward(self, x: Tensor) -> Any:
        first, second = Halves.apply(Rounded.apply(self.a(x), 0.5))
        return self.b(first + second)


def test_the_gradient_of_an_autograd_function_is_its_own() -> None:
    gm = check_trace(StraightThrough(), images())
    assert targets(gm).count("Rounded") == 1
    assert "round" not in targets(gm)


def test_a_model_with_an_autograd_function_is_saved_and_loaded(tmp_path: Path) -> None:
    gm = qatc.prepare(randomise(StraightThrough()), images(), verify=True)
    qatc.calibrate(gm, [images()], progress=False)
    qatc.save(gm, tmp_path / "model.qatc")
    allow = [f"{__name__}.{kind.__name__}.apply" for kind in (Rounded, Halves)]
    loaded = qatc.load(tmp_path / "model.qatc", allow=allow)
    assert torch.equal(evaluated(loaded, [images()]), evaluated(gm, [images()]))
    check_same(gm, loaded, images())


@torch.jit.script
def scripted_swish(x: Tensor, factor: float = 2.0) -> Tensor:
    if x.dim() > 4:
        x = x.squeeze(0)
    return x * torch.sigmoid(factor * x)


def test_a_scripted_function_is_looked_into() -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Any:
            return scripted_swish(self.b(scripted_swish(self.a(x), 1.5)))

    gm = check_trace(Scripted(), images())
    assert targets(gm).count("sigmoid") == 2


def test_a_scripted_module_is_a_leaf() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 4)
            self.act = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))

        def forward(self, x: Tensor) -> Any:
            return self.act(self.a(x))

    assert targets(check_trace(Outer(), images()), "call_module") == ["a", "act"]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_what_is_checkpointed_is_looked_into(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = conv(3, 4), nn.Sequential(conv(4, 4), nn.ReLU()), conv(4, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.stem(x)
            y = torch.utils.checkpoint.checkpoint(self.a, y, use_reentrant=reentrant)
            return torch.utils.checkpoint.checkpoint(lambda t, u: self.b(t) + u, y, y, use_reentrant=reentrant)

    with pytest.warns(QatcWarning, match=r"checkpointing at test_functions.py:\d+ is not kept") as caught:
        gm = check_trace(Checkpointed(), images())
    assert len({str(warning.message) for warning in caught if warning.category is QatcWarning}) == 2
    assert targets(gm, "call_module") == ["stem", "a.0", "a.1", "b"]


def test_what_is_checkpointed_in_training_alone_is_told_too() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            if self.training:
                return torch.utils.checkpoint.checkpoint(self.a, x, use_reentrant=False)
            return self.a(x)

    with pytest.warns(QatcWarning, match="is not kept, every activation is stored"):
        assert targets(check_trace(Checkpointed(), images()), "call_module") == ["a"]


class Numpy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Any:
        peak = torch.from_numpy(np.sort(x.detach().numpy(), axis=1)[:, -1:])
        return x * self.scale + peak


class NumpyInPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.part, self.b = conv(3, 4), Numpy(), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.part(self.a(x)))


def test_numpy_in_a_submodule_stays_one_float_call() -> None:
    model = randomise(NumpyInPart())
    with pytest.warns(QatcWarning, match=r"^part \(Numpy\) cannot be traced at ") as caught:
        gm = trace(model, images())
    assert place(Numpy, "np.sort") in str(caught[0].message)
    check_numpy(model, gm)


def check_numpy(model: nn.Module, gm: nn.Module) -> None:
    for seed, batch in ((0, 4), (1, 3), (2, 1)):
        x = images(batch, 3, 8, 8, seed=seed)
        assert torch.equal(evaluated(gm, [x]), evaluated(model, [x]))


def test_numpy_in_the_root_is_an_error_with_the_line() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Numpy(), images(4, 4, 8, 8))
    assert caught.value.where.startswith(place(Numpy, "np.sort"))


def test_numbers_and_arrays_of_numpy_are_constants() -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mean = conv(3, 4), np.array([0.5, 0.4, 0.3], dtype=np.float32)
            self.factor = np.float32(0.25)

        def forward(self, x: Tensor) -> Any:
            x = x - torch.from_numpy(self.mean)[None, :, None, None]
            y = self.conv(x) * torch.tensor(np.sqrt(self.factor)) + torch.as_tensor(np.arange(8.0, dtype=np.float32))
            return y.reshape(x.shape[0], np.prod([4, 8, 8])) * float(np.log(3.0))

    gm = check_trace(Constants(), images())
    assert set(gm.state_dict()) == set(Constants().state_dict())
    assert notes(gm) == ()
