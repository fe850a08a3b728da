"""Networks that the benches measure: one that torchvision has under no name, and one small enough to train here."""

from torch import Tensor, nn

from tools.models import torchvision_models


def vit_small() -> nn.Module:
    """Return torchvision's ViT with 6 layers, 192 wide, 3 heads, for 96x96 images in patches of 16; 100 classes."""
    model = torchvision_models().vision_transformer.VisionTransformer(
        image_size=96, patch_size=16, num_layers=6, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=100
    )
    # Its head starts at zero, and a range of nothing is no range.
    nn.init.normal_(model.heads.head.weight, std=0.02)
    result: nn.Module = model
    return result


class InvertedResidual(nn.Module):
    """MobileNetV2's block (arXiv:1801.04381, section 3.3): widen, convolve each channel alone, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int = 3) -> None:
        super().__init__()
        inner = widen * inputs
        self.expand, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.project, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU6(), nn.ReLU6()
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor [N, outputs, H / stride, W / stride]."""
        y = self.relu1(self.bn1(self.expand(x)))
        y = self.relu2(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(y))
        result: Tensor = x + y if self.residual else y
        return result


class GlyphNet(nn.Module):
    """A small MobileNetV2 for images of 32x32, written so that every tool takes it: modules, each called once."""

    def __init__(self, classes: int = 36) -> None:
        super().__init__()
        self.stem, self.bn1, self.relu1 = nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6()
        self.blocks = nn.Sequential(
            InvertedResidual(12, 16, 2),
            InvertedResidual(16, 16, 1),
            InvertedResidual(16, 32, 2),
            InvertedResidual(32, 32, 1),
        )
        self.head, self.bn2, self.relu2 = nn.Conv2d(32, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6()
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.classifier = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 1, 32, 32]."""
        x = self.relu1(self.bn1(self.stem(x)))
        x = self.blocks(x)
        x = self.flatten(self.pool(self.relu2(self.bn2(self.head(x)))))
        logits: Tensor = self.classifier(x)
        return logits
