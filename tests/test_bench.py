"""The benches' own arithmetic: the generated task, the order of data, what is counted, what a table says."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tools.bench import accuracy, accuracy_run, accuracy_table, dumps, page, prepare, rates, step_cost, step_time
from tools.bench.glyphs import CLASSES, SIZE, glyphs
from tools.bench.peers import Widths, load
from tools.bench.peers.qatc import config
from tools.bench.tasks import Task, train
from tools.digits import Recipe
from tools.networks import LeNet


def test_glyphs_follow_the_seed_and_have_every_class_equally_often() -> None:
    data = glyphs(2 * len(CLASSES), seed=3)
    assert data.images.shape == (2 * len(CLASSES), 1, SIZE, SIZE)
    assert torch.bincount(data.labels).tolist() == [2] * len(CLASSES)
    assert torch.equal(data.images, glyphs(2 * len(CLASSES), seed=3).images)
    assert not torch.equal(data.images, glyphs(2 * len(CLASSES), seed=4).images)


class Remembers(nn.Module):
    """Keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32 * 32, 2)
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        result: Tensor = self.fc(x.flatten(1))
        return result


def test_the_order_of_the_data_follows_the_seed_and_nothing_else() -> None:
    images, labels = torch.randn(20, 1, 32, 32), torch.arange(20) % 2
    task = Task(Remembers, "fc", images, labels, images, labels, Recipe(1, 0.1, 4), epochs=4)
    runs = []
    for seed, elsewhere in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(elsewhere)
        model = Remembers()
        shares: list[float] = []
        train(model, task, task.recipe(0.1), [{"params": list(model.parameters()), "lr": 0.1}], seed, shares.append)
        assert shares == [step / 20 for step in range(20)]
        runs.append(torch.stack(model.shown))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_saved_bytes_counts_each_storage_once() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU())
    x, labels = torch.randn(16, 8), torch.zeros(16, dtype=torch.long)
    # x for the first weight's gradient; ReLU's result; log-softmax's result, the labels and the sum of their weights.
    expected = 16 * 8 + 16 * 4 + 16 * 4 + 2 * 16 + 1
    assert step_cost.saved_bytes(model, x, labels) == 4 * expected


def test_a_step_is_measured_against_the_float_one() -> None:
    args = argparse.Namespace(
        tool="qatc", model="squeezenet1_1", rounds=1, batch=2, size=32, device="cpu",
        compile=False, autocast=False,
    )  # fmt: skip
    row = step_cost.measure(args)
    assert row["ratio"] == pytest.approx(row["qat_ms"] / row["float_ms"], rel=0.05)
    assert row["saved_ratio"] > 0.5


def test_a_tool_that_fails_is_a_row_of_the_table() -> None:
    row = {"tool": "brevitas", "model": "package.module:network", "error": "KeyError: 'conv'\nat great length"}
    assert step_time.table([row])[1].split() == ["network", "brevitas", "KeyError:", "'conv'"]


def _row(seed: int, **values: object) -> dict[str, object]:
    return {"task": "digits", "tool": "qatc", "cell": "w4a4", "seed": seed, "float": 99.0, **values}


def test_the_table_has_means_and_deviations_of_what_was_deployed() -> None:
    rows = [_row(0, simulated=90.0, deployed=80.0), _row(1, simulated=94.0, export_error="no 4 bits")]
    (line,) = accuracy_table.table(rows)[1:]
    assert " ".join(line.split()) == "digits w4a4 qatc 99.00 92.00 ± 2.83 80.00 ± 0.00 no 4 bits"


def test_what_is_done_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(_row(0, simulated=90.0, deployed=80.0)) + "\n")
    only = ["--tools", "qatc", "--tasks", "digits", "--cells", "w4a4", "--seeds", "1"]
    assert accuracy.main([*only, "--resume", str(file)]) == 0
    assert "80.00" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 1


def test_one_job_is_trained_lowered_and_run(tmp_path: Path) -> None:
    images, labels = torch.rand(64, 1, 32, 32), torch.arange(64) % 10
    task = Task(
        LeNet, "conv1", images, labels, images[:50], labels[:50],
        Recipe(1, 1e-3, 16), epochs=1,
    )  # fmt: skip
    row = accuracy_run.result("digits", task, load("qatc"), "w4a4-stem8", 0, 1e-3, tmp_path)
    assert row["deployed"] == row["simulated"]
    assert (tmp_path / "digits-float-0.pt").exists()


def test_a_rate_is_sought_from_where_the_search_begins_to_where_both_neighbours_are_worse() -> None:
    worth = dict(zip(rates.CANDIDATES, (1.0, 2.0, 4.0, 5.0, 3.0, 9.0, 8.0), strict=True))
    tried = []

    def value(rate: float) -> rates.Score:
        tried.append(rate)
        return rates.Score(worth[rate], 0.0)

    found = rates.climb(value, 5e-4)
    assert tried == [2e-4, 5e-4, 1e-3, 2e-3, 5e-3]
    assert rates.row_of(found)["rate"] == 2e-3


def test_a_score_of_nan_is_the_worst() -> None:
    images, labels = torch.zeros(4, 1, 32, 32), torch.zeros(4, dtype=torch.long)
    task = Task(LeNet, "conv1", images, labels, images, labels, Recipe(1, 0.1, 4), epochs=1)

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), torch.nan)

    assert rates.score(Broken(), task).minus_loss == -torch.inf


def test_rates_are_chosen_by_training_images_alone() -> None:
    images, labels = torch.arange(12.0).view(12, 1, 1, 1), torch.arange(12)
    task = Task(LeNet, "conv1", images, labels, -images, labels, Recipe(1, 0.1, 4), epochs=1)
    part = rates.kept_from_training(task)
    assert part.labels.tolist() == list(range(10))
    assert part.test_images.flatten().tolist() == [10, 11]


def test_without_a_rate_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rates, "RATES", tmp_path / "rates.jsonl")
    only = ["--tools", "qatc", "--tasks", "digits", "--cells", "w4a4", "--seeds", "1"]
    assert accuracy.main([*only, "--resume", str(tmp_path / "rows.jsonl")]) == 2
    assert "--choose-rates" in capsys.readouterr().err


def test_the_markdown_table_marks_the_best_and_brackets_what_has_no_file() -> None:
    rows = [
        _row(0, simulated=90.0, deployed=80.0),
        _row(1, simulated=94.0, deployed=82.0),
        {**_row(0, simulated=95.0, export_error="no 4 bits"), "tool": "modelopt"},
        {**_row(0, error="Unsupported"), "tool": "nncf"},
    ]
    assert accuracy_table.markdown(rows) == [
        "| digits, float 99.0 | qatc | modelopt | nncf |",
        "|---|---|---|---|",
        "| w4a4 | **81.0 ± 1.4** | (95.0 ± 0.0) | - |",
    ]


def test_qatc_is_asked_for_the_widths_of_the_cell() -> None:
    made = config(Widths(3, 4, stem="conv1", pow2=True))
    assert (made.default.weight_bits, made.default.activation_bits, made.pow2) == (3, 4, "round")
    assert [(rule.match, rule.weight_bits, rule.activation_bits) for rule in made.rules] == [("conv1", 8, 8)]
    assert config(Widths()).default.weight_quantizer == "tracked"


def test_what_dumps_add_is_the_median_of_the_rounds_shares() -> None:
    found = {"plain": [1.0, 2.0, 4.0], "dumps": [1.1, 2.1, 8.0], "differences": [1.0, 2.0, 4.0]}
    assert dumps.row("net", found).split() == ["net", "2.000", "10.0", "0.0"]


def test_every_way_of_looking_at_the_passes_is_timed() -> None:
    found = dumps.seconds(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(2, 3, 8, 8), rounds=2)
    assert set(found) == set(dumps.WAYS)
    assert all(len(times) == 2 and min(times) > 0 for times in found.values())


def test_a_cost_in_proportion_to_the_nodes_has_the_exponent_one() -> None:
    small, large = prepare.Cost(1.0, {"pass": 1.0}, 100), prepare.Cost(10.0, {"pass": 10.0}, 1000)
    assert prepare.exponent(small, large) == pytest.approx(1.0)


def test_the_bench_of_the_page_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert page.main([]) == 2
    assert "apt-get install -y chromium chromium-driver" in capsys.readouterr().err
