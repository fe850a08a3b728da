"""What quantization-aware training costs: a training step against the float one, for qatc and its peers side by side.

    tools/bench/step_time [--tools qatc brevitas] [--models resnet18] [--rounds 9] [--compile] [--device cuda]

Forward, backward and optimizer; 8 bits, weights per channel, BatchNorm with batch statistics; each tool in a process of
its own, where its steps and the float model's take turns. `saved` is what the forward pass keeps for the backward one.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.bench.peers import TOOLS

MODELS = ("resnet18", "mobilenet_v2", "tools.bench.networks:vit_small")
# Of eager steps on a CPU; of compiled ones on resnet18; of what is kept for the backward pass.
GOALS = {"resnet18": 1.15, "mobilenet_v2": 1.30, "vit_small": 1.12}
COMPILED_GOAL, SAVED_GOAL = 1.4, 1.25
_LONGEST = 1800  # seconds that a tool may take for one model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/step_time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS, metavar="TOOL")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="as tools/opt takes them")
    parser.add_argument("--rounds", type=int, default=9, help="steps of each that count (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file that each row is added to as JSON, as soon as it is there")
    args, rest = parser.parse_known_args(argv)
    rows = []
    with tqdm(total=len(args.tools) * len(args.models), disable=None) as bar:
        for model in args.models:
            for tool in args.tools:
                bar.set_description(f"{tool} {model}")
                rows.append(row := measured(tool, model, ["--rounds", str(args.rounds), *rest]))
                if args.out is not None:
                    with args.out.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                bar.update()
    print("\n".join(table(rows)))
    return 0


def measured(tool: str, model: str, options: Sequence[str]) -> dict[str, Any]:
    """Return what `tools.bench.step_cost` prints for one tool and one model, in a process of its own."""
    command = [sys.executable, "-P", "-m", "tools.bench.step_cost", tool, model, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        return {"tool": tool, "model": model, "error": f"not done after {_LONGEST} s"}
    if done.returncode == 2:  # an option that it does not know
        sys.exit(done.stderr)
    try:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        row = {"tool": tool, "model": model, "error": last}
    return row


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line per row, and the goals."""
    lines = [
        f"{'model':<16}{'tool':<13}{'float ms':>9}{'QAT ms':>9}{'ratio':>7}{'saved':>7}{'prepare s':>11}"
        f"{'breaks':>8}  version"
    ]
    for row in rows:
        head = f"{_short(row['model']):<16}{row['tool']:<13}"
        if "error" in row:
            lines.append(f"{head}{row['error'].splitlines()[0][:90]}")
            continue
        lines.append(
            f"{head}{row['float_ms']:>9.1f}{row['qat_ms']:>9.1f}{row['ratio']:>7.2f}{row['saved_ratio']:>7.2f}"
            f"{row['prepare']:>11.1f}{row.get('graph_breaks', ''):>8}  {row['version']}"
        )
    goals = ", ".join(f"{model} {goal:.2f}" for model, goal in GOALS.items())
    return [
        *lines,
        f"goals for qatc's ratio: eager {goals}, compiled {COMPILED_GOAL} on resnet18 without a break; "
        f"saved {SAVED_GOAL}",
    ]


def _short(model: str) -> str:
    return model.rpartition(":")[2]


if __name__ == "__main__":
    sys.exit(main())
