"""What quantization without training keeps of the accuracy: a network on the digits, by widths, ranges, refinements."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import nn
from tqdm import tqdm

import qatc
from tools import digits
from tools.networks import NETWORKS

WIDTHS = ((8, 8), (4, 8), (4, 4), (3, 8), (3, 3))
REFINEMENTS: tuple[tuple[str, ...], ...] = ((), ("correct_biases",), ("equalize",), ("equalize", "correct_biases"))


@dataclass(frozen=True)
class Row:
    """Accuracy in percent on held-out images, one for each of `REFINEMENTS`."""

    weight_bits: int
    activation_bits: int
    ranges: str
    accuracies: tuple[float, ...]


def config(weight_bits: int, activation_bits: int, least_error: bool) -> qatc.QConfig:
    """Return 8 bits' usual ranges, the whole of what was seen, or those of the least squared error."""
    if not least_error:
        return qatc.QConfig(default=qatc.LayerConfig(weight_bits=weight_bits, activation_bits=activation_bits))
    return qatc.QConfig(
        default=qatc.LayerConfig(
            weight_bits=weight_bits, weight_quantizer="fixed", weight_range="mse",
            activation_bits=activation_bits, activation_quantizer="fixed", activation_range="mse",
        )
    )  # fmt: skip


def rows(network: nn.Module, data: digits.Digits, widths: Sequence[tuple[int, int]] = WIDTHS) -> Iterator[Row]:
    """Yield a row for each width and kind of range; 512 training images are what is calibrated with."""
    batches = [(images,) for images in data.images[:512].split(32)]
    for (weight_bits, activation_bits), least in tqdm(list(product(widths, (False, True))), disable=None):
        settings = config(weight_bits, activation_bits, least)
        found = []
        for refine in REFINEMENTS:
            model = qatc.quantize(network, batches, config=settings, refine=refine, progress=False)
            found.append(digits.torch_accuracy(model, data))
        yield Row(weight_bits, activation_bits, "least error" if least else "whole", tuple(found))


def table(floating: float, found: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    head = [f"float {floating:.2f}", "ranges", *(" + ".join(refine) or "calibrated" for refine in REFINEMENTS)]
    lines = [
        [f"w{row.weight_bits}a{row.activation_bits}", row.ranges, *(f"{accuracy:.2f}" for accuracy in row.accuracies)]
        for row in found
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def main(argv: Sequence[str] | None = None) -> int:
    """Train the network in float, quantize it every way, and print the table."""
    parser = argparse.ArgumentParser("tools/bench/ptq", description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="resnet-digits")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    data = digits.load()
    network = NETWORKS[args.network]()
    digits.train(network, data, digits.Recipe(args.epochs, 3e-3))
    print(table(digits.torch_accuracy(network, data), list(rows(network, data))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
