"""Networks of torchvision with seeded weights, as no test downloads any."""

import torch
from torch import nn

from tests.models import images, randomise
from tools.models import torchvision_models

NETWORKS = ("resnet18", "mobilenet_v2")


def network(name: str) -> nn.Module:
    """Return the network in eval mode, with random weights, and BatchNorm statistics that fit them but for noise."""
    model: nn.Module = randomise(torchvision_models().get_model(name, weights=None, num_classes=10), seed=1)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for bn in norms:
        bn.momentum = 1.0
    with torch.no_grad():
        model.train()(images(4, 3, 64, 64))
    g = torch.Generator().manual_seed(2)
    for bn in norms:
        bn.momentum = 0.1
        assert bn.running_mean is not None
        assert bn.running_var is not None
        bn.running_mean += torch.randn(bn.num_features, generator=g) * 0.2 * bn.running_var.sqrt()
        bn.running_var *= torch.rand(bn.num_features, generator=g) * 0.7 + 0.7
    return model.eval()
