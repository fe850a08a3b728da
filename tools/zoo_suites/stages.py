"""The stages that a model goes through, from building it to a file whose codes agree."""

import inspect
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qatc
from qatc import ir
from qatc.lowering import Lowered, verify
from qatc.lowering.flatten_inputs import input_name
from qatc.nested import leaves
from tools.zoo_suites import agreement
from tools.zoo_suites.agreement import Step
from tools.zoo_suites.compute import compute_of
from tools.zoo_suites.entry import Entry, Inputs, given
from tools.zoo_suites.leaves import float_leaves, foreign_names, weights_in
from tools.zoo_suites.outcome import STAGES, Outcome
from tools.zoo_suites.reasons import Disagreement, is_out_of_memory, reason_of
from tools.zoo_suites.weights import call, randomise

# Samples shown: to prepare and compare, at another batch size, to train on, to measure statistics, to verify.
EXAMPLE, OTHER, TRAINING, MEASURING, VERIFYING = 2, 3, 4, 4, 4
TARGET = "onnxruntime"


def run(entry: Entry, report: Callable[[Outcome], None] = lambda outcome: None) -> Outcome:
    """Take one model through the stages; `report` is told before each, so that a crash leaves what is known."""
    outcome = Outcome(entry.name)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(entry, outcome, Path(folder))
        for stage in STAGES:
            outcome.stage = stage
            report(outcome)
            start = time.process_time()
            try:
                getattr(trial, stage)()
            except Exception as error:
                outcome.reason = reason_of(error)
                outcome.out_of_memory = is_out_of_memory(error)
            outcome.seconds[stage] = round(time.process_time() - start, 3)
            if outcome.reason or stage == entry.until:
                break
    report(outcome)
    return outcome


class _Trial:
    """One model on its way; each stage finds what the stages before it left."""

    original: nn.Module
    prepared: qatc.PreparedModel
    lowered: Lowered

    def __init__(self, entry: Entry, outcome: Outcome, folder: Path) -> None:
        self.entry, self.outcome, self.folder = entry, outcome, folder
        self.reached: list[agreement.Names] = []  # parameters that the original's gradients reach

    def inputs(self, batch: int, seed: int) -> Inputs:
        return given(self.entry.inputs, batch, seed)

    def build(self) -> None:
        model = self.entry.build()
        self.original = randomise(model, self.inputs(MEASURING, seed=1))
        bad = [name or "it" for name, t in agreement.outputs(self.original, self.inputs(EXAMPLE, 2)).items()
               if t.is_floating_point() and not t.isfinite().all()]  # fmt: skip
        if bad:
            raise Disagreement(f"as it was built, {', '.join(bad)} is not finite")

    def prepare(self) -> None:
        self.prepared = qatc.prepare(self.original, self.inputs(EXAMPLE, 2), target=TARGET)
        outcome = self.outcome
        outcome.notes = list(ir.notes(self.prepared))
        found = float_leaves(self.prepared)
        outcome.leaves, outcome.hidden = list(found), weights_in(found.values())
        if len(found) > self.entry.float_leaves:
            raise Disagreement(f"{len(found)} float leaves: {', '.join(found)}")

    def float(self) -> None:
        self._same_outputs(self.inputs(EXAMPLE, 2))
        self.outcome.share = compute_of(self.original, self.prepared, self.inputs(EXAMPLE, 2)).share
        expected = Step(self.original, self.inputs(TRAINING, 4))
        self.reached = list(expected.gradients)
        with qatc.float_mode(self.prepared):
            found = Step(self.prepared, self.inputs(TRAINING, 4))
        agreement.check_step(expected, found)

    def batch(self) -> None:
        self._same_outputs(self.inputs(OTHER, 5))

    def _same_outputs(self, inputs: Inputs) -> None:
        expected = agreement.outputs(self.original, inputs)
        with qatc.float_mode(self.prepared):
            agreement.check_outputs(expected, agreement.outputs(self.prepared, inputs))

    def train(self) -> None:
        self.signature = inspect.signature(self.original.forward)
        del self.original
        model = self.prepared
        qatc.calibrate(model, [self.inputs(EXAMPLE, seed) for seed in (6, 7)], progress=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        loss = agreement.loss_of(call(model.train(), self.inputs(TRAINING, 8)))
        if not loss.isfinite():
            raise Disagreement(f"the loss is {float(loss)}")
        loss.backward()
        optimizer.step()
        gradients = agreement.matched(self.reached, agreement.taken_gradients(model))
        broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        if broken:
            raise Disagreement(f"{len(broken)} gradients are not finite: {', '.join(broken[:3])}")

    def save(self) -> None:
        inputs = self.inputs(OTHER, 9)
        expected = agreement.outputs(self.prepared, inputs)
        self.outcome.allowed = foreign_names(self.prepared)
        path = self.folder / "model.pt"
        qatc.save(self.prepared, path)
        self.prepared = qatc.load(path, allow=self.outcome.allowed)
        path.unlink()
        agreement.check_same_bits(expected, agreement.outputs(self.prepared, inputs))

    def lower(self) -> None:
        self.lowered = qatc.lower(self.prepared, self.folder / "model.onnx")
        (self.folder / "model.onnx").unlink()

    def verify(self) -> None:
        inputs = self.inputs(VERIFYING, 10)
        bound = self.signature.bind(**inputs) if isinstance(inputs, dict) else self.signature.bind(*inputs)
        found = [leaf for leaf in leaves(bound.arguments) if isinstance(leaf.value, Tensor)]
        data: dict[str, NDArray[Any]] = {input_name(leaf.path): leaf.value.numpy() for leaf in found}
        checked = verify(self.prepared, self.lowered, data)
        self.outcome.codes, self.outcome.differing = checked.codes, checked.differing
        if not checked.passed:
            worst = max(checked.tensors, key=lambda t: t.differing)
            step = max(t.step for t in checked.tensors)
            raise Disagreement(
                f"{checked.differing} of {checked.codes} codes differ per op (allowed: {checked.allowed}), by at most "
                f"{step}; {worst.differing} of them in {worst.name}"
            )
