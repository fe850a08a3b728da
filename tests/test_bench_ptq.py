"""The bench of quantization without training: its rows and its table."""

import torch

from tools import digits
from tools.bench.ptq import REFINEMENTS, Row, config, rows, table
from tools.networks import LeNet


def test_a_row_has_an_accuracy_for_each_refinement() -> None:
    torch.manual_seed(0)
    data = digits.load()
    few = digits.Digits(data.images[:64], data.labels[:64], data.test_images[:50], data.test_labels[:50])
    found = list(rows(LeNet().eval(), few, widths=((4, 8),)))
    assert [(row.weight_bits, row.activation_bits, row.ranges) for row in found] == [
        (4, 8, "whole"), (4, 8, "least error"),
    ]  # fmt: skip
    assert all(len(row.accuracies) == len(REFINEMENTS) for row in found)
    assert config(4, 8, True).default.weight_range == "mse"


def test_the_table_is_markdown() -> None:
    text = table(99.333, [Row(8, 4, "whole", (1.0, 2.0, 3.0, 4.567))]).splitlines()
    assert text[0] == "| float 99.33 | ranges | calibrated | correct_biases | equalize | equalize + correct_biases |"
    assert text[2] == "| w8a4 | whole | 1.00 | 2.00 | 3.00 | 4.57 |"
