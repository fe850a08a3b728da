"""One model in a process of its own: `python -m tools.zoo_suites.worker SUITE MODEL FILE BYTES`.

FILE gets a line of JSON whenever a stage begins and at the end, so that whoever waits knows how far a crash came.
BYTES bounds the memory: an allocation beyond fails here, instead of the machine ending some other process.
"""

import faulthandler
import json
import logging
import resource
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import qatc
from tools.zoo_suites.outcome import Outcome
from tools.zoo_suites.reasons import is_out_of_memory, reason_of
from tools.zoo_suites.stages import run
from tools.zoo_suites.suites import entry_named


def main(suite: str, name: str, file: str, memory: str) -> None:
    """Run the model through the stages."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    resource.setrlimit(resource.RLIMIT_DATA, (int(memory), int(memory)))
    path = Path(file)
    with path.open("a", encoding="utf-8") as lines:

        def report(outcome: Outcome) -> None:
            lines.write(json.dumps(outcome.data()) + "\n")
            lines.flush()

        try:
            _warm_up()
            run(entry_named(suite, name), report)
        except Exception as error:  # of the suite itself
            report(Outcome(name, reason=reason_of(error), out_of_memory=is_out_of_memory(error)))


def _warm_up() -> None:
    """Import what the first model imports, so that no time of the table holds it."""
    qatc.prepare(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval(), (torch.zeros(2, 1, 2, 2),))


if __name__ == "__main__":
    main(*sys.argv[1:])
