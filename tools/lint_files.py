"""Files that other tools quantize, for the linter's tests: what ModelOpt and ONNX Runtime write, without the weights.

    python -m tools.lint_files tests/targets/files

runs in the environment of `tools/peers`, with onnx-graphsurgeon, onnxslim, polygraphy, lief and cppimport beside it
(ModelOpt's own extra "onnx" wants other versions of onnx and ONNX Runtime). A file is JSON: the graph in ONNX's textual
form, and of each constant its type, its shape and its numbers, of more than eight the first, which stands for all.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from modelopt.onnx.quantization import quantize
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

_SHAPE = (8, 3, 32, 32)
# Axes, sizes and the like are as short as this.
_SHOWN = 8


class _ConvNet(nn.Module):
    """Residual, depthwise, SiLU, squeeze-and-excite and concatenation in one network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
        )  # fmt: skip
        self.deep = nn.Sequential(
            nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.BatchNorm2d(64), nn.SiLU(),
        )  # fmt: skip
        self.squeeze, self.excite = nn.Conv2d(64, 16, 1), nn.Conv2d(16, 64, 1)
        self.project = nn.Sequential(nn.Conv2d(64, 32, 1, bias=False), nn.BatchNorm2d(32))
        self.merge = nn.Sequential(nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.block(x) + x)
        y = self.deep(x)
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = torch.cat((x, x + self.project(y)), 1)
        x = F.max_pool2d(self.merge(x), 2)
        head: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return head


class _VisionTransformer(nn.Module):
    """Patches and one encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, stride=4)
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return head


NETWORKS: dict[str, type[nn.Module]] = {"convnet": _ConvNet, "vit": _VisionTransformer}


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.float32]]] = iter([{name: images}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch, ``None`` behind the last."""
        return next(self._batches, None)


def described(model: onnx.ModelProto) -> str:
    """Return the description of a model, as JSON."""
    constants = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).reshape(-1).tolist()
        shown = values if len(values) <= _SHOWN else values[:1]
        constants[tensor.name] = [onnx.TensorProto.DataType.Name(tensor.data_type), list(tensor.dims), shown]
    del model.graph.initializer[:], model.metadata_props[:], model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    text = [line.strip() for line in onnx.printer.to_text(model).splitlines()]
    lines = [json.dumps(line) for line in text]
    rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in constants.items()]
    return '{"text": [\n' + ",\n".join(lines) + '\n], "constants": {\n' + ",\n".join(rows) + "\n}}"


def _exported(name: str, images: Tensor, folder: Path) -> Path:
    """Return the ONNX file of a network with seeded weights."""
    torch.manual_seed(0)
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        NETWORKS[name]().eval(), (images,), path, opset_version=18, dynamo=True, external_data=False,
        input_names=["image"],
    )  # fmt: skip
    return path


def _main() -> None:
    parser = argparse.ArgumentParser("lint_files", description="Write quantized files of other tools, without weights.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    images = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as place:
        quantized = Path(place) / "quantized.onnx"
        exported = {name: _exported(name, images, Path(place)) for name in NETWORKS}
        # ModelOpt replaces parts of ONNX Runtime's quantizer for good when it runs, so that one goes first.
        for name, path in exported.items():
            quantize_static(
                path, quantized, _Batches("image", images.numpy()), QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            (folder / f"onnxruntime_{name}.json").write_text(described(onnx.load(quantized)) + "\n")
        for name, path in exported.items():
            quantize(str(path), "int8", {"image": images.numpy()}, output_path=str(quantized))
            (folder / f"modelopt_{name}.json").write_text(described(onnx.load(quantized)) + "\n")


if __name__ == "__main__":
    _main()
