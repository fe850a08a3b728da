"""Small models, one hazard each; all read [N, 3, 8, 8] unless their docstring says otherwise."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a model seeded weights, and BatchNorms statistics and factors that are not the neutral ones.

    The positive shift keeps a deep BN + ReLU net from amplifying every rounding, which would hide real errors.
    """
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
        for bn in model.modules():
            if isinstance(bn, nn.modules.batchnorm._BatchNorm):
                if bn.affine:
                    bn.weight.copy_(torch.rand(bn.num_features, generator=g) * 0.6 + 0.7)
                    bn.weight[0] *= -1
                    bn.bias.copy_(torch.randn(bn.num_features, generator=g) * 0.3 + 0.8)
                if bn.running_mean is not None and bn.running_var is not None:
                    bn.running_mean.copy_(torch.randn(bn.num_features, generator=g) * 0.3)
                    bn.running_var.copy_(torch.rand(bn.num_features, generator=g) + 0.5)
    return model


def images(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded values; a batch of four 8x8 images if no shape is given."""
    return torch.randn(shape or (4, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def conv(inputs: int, outputs: int, kernel: int = 3, **given: int | bool | str) -> nn.Conv2d:
    """Return a convolution that keeps the image's size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **given)  # type: ignore[arg-type]


class SharedRelu(nn.Module):
    """One ReLU called behind two layers: one object, two ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = conv(3, 4), conv(4, 4), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        return self.relu(self.b(self.relu(self.a(x))))


class SharedConv(nn.Module):
    """One convolution called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.conv(self.conv(self.conv(self.stem(x))))


class SharedBatchNorm(nn.Module):
    """One BatchNorm behind two convolutions: its statistics are of both calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bn = conv(3, 4), conv(4, 4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.b(self.bn(self.a(x))))


class SharedBlock(nn.Module):
    """A block of several layers called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 4)
        self.block = nn.Sequential(conv(4, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        return self.block(self.block(self.stem(x)))


class Functional(nn.Module):
    """Layers as modules, everything else as functions, operators and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.conv(x))
        y = F.max_pool2d(y, 2)
        y = torch.cat([y, torch.sigmoid(y) * y], dim=1)
        y = F.adaptive_avg_pool2d(y, 1).flatten(1)
        return F.softmax(self.fc(F.dropout(y, 0.5, self.training)), dim=-1)


class Inplace(nn.Module):
    """A tensor that is overwritten by a module, a function and an operator, and read afterwards under its old name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.relu, self.b = conv(3, 4), nn.ReLU(inplace=True), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = z = self.a(x)
        z += 0.5
        self.relu(y)
        y = self.b(z)
        F.hardtanh(y, 0.0, 2.0, inplace=True)
        return y + z


class InplaceView(nn.Module):
    """A tensor that is overwritten through what may be a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        F.relu(y.reshape(x.shape[0], -1), inplace=True)
        return y


class InplaceUnknown(nn.Module):
    """A tensor that is overwritten by a call that has no module form."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        y.cumsum_(1)
        return self.b(y)


class Numbers(nn.Module):
    """Operators between tensors and numbers, on either side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return 1.0 - (2 * (y + 1.0)) / 3.0


class Sizes(nn.Module):
    """Arithmetic on sizes, which is no arithmetic on tensors; `unflat` gives it back its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 4), nn.Linear(256, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        y = y * y.size(-1) ** -0.5
        return self.fc(y.reshape(y.shape[0], y.shape[1] * y.size(2) * y.size(3)))


class Resize(nn.Module):
    """Interpolation to a size that the network computes, and to one that is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.side = conv(3, 4, stride=2), conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y, z = self.down(x), self.side(x)
        y = F.interpolate(y, size=z.shape[2:], mode="bilinear", align_corners=False) + z
        return F.interpolate(y, scale_factor=2.0)


class Means(nn.Module):
    """Means with and without the dimension kept, in each spelling; and maxima, sums and clamps that have no form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        kept = y * torch.mean(y, dim=[2, 3], keepdim=True)
        return kept.mean((2, 3)) + y.mean(2, keepdim=False).mean(-1) + torch.mean(y, None, True).sum()


class Dropouts(nn.Module):
    """Dropout as a function that follows the model's mode, and as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = conv(3, 4), nn.Dropout2d(0.25)

    def forward(self, x: Tensor) -> Any:
        return self.drop(F.dropout(self.conv(x), training=self.training))


class Declined(nn.Module):
    """Calls that look like a form that they do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        y = torch.add(y, y.relu(), alpha=2)
        y = torch.clamp(y, max=y.mean())
        y = torch.div(y, 0.5, rounding_mode="floor")
        return F.max_pool2d(y, 2, return_indices=True)[0]


class Keywords(nn.Module):
    """Every argument by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Any:
        y = self.relu(input=self.bn(input=self.conv(input=x)))
        y = F.max_pool2d(input=y, kernel_size=3, stride=1, padding=1)
        return torch.cat(tensors=(y, torch.add(input=y, other=y)), dim=1)


class ConvBnAct(nn.Module):
    """A layer, a BatchNorm, an activation; None leaves one out."""

    def __init__(
        self, layer: nn.Module | None = None, bn: nn.Module | None = None, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = conv(3, 4, bias=False) if layer is None else layer
        self.bn = bn
        self.act = act

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        y = y if self.bn is None else self.bn(y)
        return y if self.act is None else self.act(y)


class BatchNormReadTwice(nn.Module):
    """A BatchNorm's result that an activation and a sum read: the activation cannot be fused, the BatchNorm can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv(3, 4), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        y = self.bn(self.conv(x))
        return self.relu(y) + y


class ConvReadTwice(nn.Module):
    """A convolution's result that a BatchNorm and a sum read: neither can be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(3, 4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return self.bn(y) + y


class PreActivation(nn.Module):
    """BatchNorm and ReLU before the layer, and a BatchNorm behind a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.relu, self.conv, self.bn2 = nn.BatchNorm2d(3), nn.ReLU(), conv(3, 4), nn.BatchNorm2d(7)

    def forward(self, x: Tensor) -> Any:
        return self.bn2(torch.cat([x, self.conv(self.relu(self.bn1(x)))], 1))


class SharedBatchNormAlone(nn.Module):
    """A BatchNorm with no layer in front, called twice, once before a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.relu, self.pool = nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.pool(self.relu(self.bn(x))))


class ResidualIdentity(nn.Module):
    """A residual block whose skip is the block's input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.conv1, self.conv2, self.relu = conv(4, 4), conv(4, 4), nn.ReLU()
        self.head = conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(self.relu(self.conv2(self.relu(self.conv1(x))) + x))


class ResidualTwoConvs(nn.Module):
    """A residual block with a convolution on both branches; `first` says which is written first."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2, self.skip = conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 4, 1)
        self.head, self.first = conv(4, 4), first

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        if self.first == "skip":
            skip = self.skip(x)
            return self.head(skip + self.conv2(self.conv1(x)))
        return self.head(self.conv2(self.conv1(x)) + self.skip(x))


class Concat(nn.Module):
    """Two branches concatenated, one of which something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 4), conv(3, 4), conv(4, 4), conv(12, 4)

    def forward(self, x: Tensor) -> Any:
        a, b = F.relu(self.a(x)), self.b(x)
        return self.head(torch.cat([a, b, self.c(a)], 1))


class Classifier(nn.Module):
    """Convolution, ReLU6, pools, flatten, linear: what most classifiers end in."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.act, self.pool = conv(3, 4), act or nn.ReLU6(), nn.MaxPool2d(2)
        self.conv2, self.fc = conv(4, 4), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.pool(self.act(self.conv(x)))
        return self.fc(torch.flatten(torch.relu(self.conv2(y)), 1))


class DataDependent(nn.Module):
    """Python that decides on a tensor's values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if y.sum() > 0:
            y = -y
        return y
