"""What the small examples train: a network on scikit-learn's handwritten digits."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def network(width: int = 16) -> nn.Module:
    """Return a small convolutional network for images [N, 1, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def datasets() -> tuple[TensorDataset, TensorDataset]:
    """Return images and labels to train with, and every fourth one held out."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    held_out = torch.arange(len(labels)) % 4 == 0
    return TensorDataset(images[~held_out], labels[~held_out]), TensorDataset(images[held_out], labels[held_out])


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """Return the share of images, in percent, that the model in eval mode calls by their label."""
    images, labels = data.tensors
    with torch.no_grad():
        return 100 * float((model.eval()(images).argmax(1) == labels).float().mean())


def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy."""
    return F.cross_entropy(model(images), labels)
