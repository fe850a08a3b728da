"""A suite of models that do what no model should, for the tests of the tool: `tools/zoo --suite tests.zoo.cases`."""

import os
import signal
import time
from typing import Any

from torch import Tensor, nn

from tools.zoo_suites.entry import Entry, image


class Good(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.conv(x).relu().mean((2, 3)))


class NotFinite(Good):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) / 0


def broken() -> nn.Module:
    raise ValueError("no such weights\nand more that nobody needs")


def crashing() -> nn.Module:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def leaving() -> nn.Module:
    os._exit(3)


def hanging() -> nn.Module:
    time.sleep(600)
    raise AssertionError


def large() -> nn.Module:
    return nn.Linear(2**22, 2**22, device="cpu")  # 64 TiB


def entries() -> list[Entry]:
    builds = {
        "good": Good, "not-finite": NotFinite, "broken": broken, "crashing": crashing, "leaving": leaving,
        "hanging": hanging, "large": large,
    }  # fmt: skip
    return [Entry(name, build, image(3, 8, 8)) for name, build in builds.items()]
