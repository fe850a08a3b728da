"""Which layers to keep at more bits, so that the most damage goes for a budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qatc.config import Rule
from qatc.debugging.figures import finite


@dataclass(frozen=True)
class LayerDamage:
    """One layer: the damage of quantizing it alone, and how much goes where it alone is not (None: not measured).

    `weights` is the number of its weights, `macs` that of its multiplications for one sample; `spec` its weight's grid,
    `inputs` those of what it reads. `improvable` says whether it has fewer bits than are proposed.
    """

    layer: str
    location: str
    spec: str
    inputs: str
    damage: float
    relief: float | None
    weights: int
    macs: int
    improvable: bool


@dataclass(frozen=True)
class Sensitivity:
    """The layers by damage, the greatest first, and which to keep at `bits` bits for the budget.

    `damage` is that of the whole quantized model, `measure` says what damage is. `rules` go into a `qatc.QConfig`.
    """

    rows: tuple[LayerDamage, ...]
    damage: float
    measure: str
    bits: int
    budget: float | None
    cost: str
    kept: tuple[str, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """A rule for each layer to keep, to be put behind those of the configuration."""
        return tuple(Rule(name, weight_bits=self.bits, activation_bits=self.bits) for name in self.kept)

    @property
    def share(self) -> float:
        """The share of the whole model's cost that the kept layers are."""
        costs = costs_of(self.rows, self.cost)
        return sum(costs[name] for name in self.kept) / max(sum(costs.values()), 1)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; what is no finite number is None."""
        rows = [
            {
                "layer": row.layer, "location": row.location, "weight": row.spec, "inputs": row.inputs,
                "damage": finite(row.damage), "relief": None if row.relief is None else finite(row.relief),
                "weights": row.weights, "macs": row.macs, "kept": row.layer in self.kept,
            }
            for row in self.rows
        ]  # fmt: skip
        return {
            "measure": self.measure, "damage": finite(self.damage), "bits": self.bits, "budget": self.budget,
            "cost": self.cost, "share": self.share, "kept": list(self.kept), "rows": rows,
        }  # fmt: skip

    def __str__(self) -> str:
        head = ("layer", "at", "weight", "inputs", "alone", "relief", "weights", "MACs", "")
        table = [head] + [
            (
                row.layer, row.location, row.spec, row.inputs, f"{row.damage:.3g}",
                "" if row.relief is None else f"{row.relief:.3g}", str(row.weights), str(row.macs),
                f"keep at {self.bits} bits" if row.layer in self.kept else "",
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        tail = [f"damage: {self.measure}; of the whole model {self.damage:.3g}"]
        if self.kept:
            tail.append(f"kept at {self.bits} bits: {len(self.kept)} layers, {self.share:.0%} of the {self.cost}")
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *tail])


COSTS = ("weights", "macs", "layers")


def costs_of(rows: Iterable[LayerDamage], cost: str) -> dict[str, int]:
    """Return what each layer costs: its weights (so, at one width, its bytes), its multiplications, or 1."""
    return {row.layer: {"weights": row.weights, "macs": row.macs, "layers": 1}[cost] for row in rows}


def chosen(rows: Sequence[LayerDamage], budget: float, cost: str) -> tuple[str, ...]:
    """Return the layers to keep, in the rows' order, that together cost at most `budget` of the whole.

    The better of two greedy choices, by damage for the cost and by damage alone: together they take away at least half
    of what the best choice does (Kellerer, Pferschy and Pisinger, Knapsack Problems, 2004, section 2.1).
    """
    costs = costs_of(rows, cost)
    limit = budget * sum(costs.values()) * (1 + 1e-9)  # a share that is met exactly is within it
    worth = {row.layer: row.damage for row in rows if row.improvable and row.damage > 0}
    orders = (
        sorted(worth, key=lambda name: -worth[name] / max(costs[name], 1)),
        sorted(worth, key=lambda name: -worth[name]),
    )
    best = max((_filled(order, costs, limit) for order in orders), key=lambda names: sum(worth[n] for n in names))
    return tuple(row.layer for row in rows if row.layer in best)


def _filled(order: Iterable[str], costs: dict[str, int], limit: float) -> frozenset[str]:
    taken: list[str] = []
    spent = 0
    for name in order:
        if spent + costs[name] <= limit:
            taken.append(name)
            spent += costs[name]
    return frozenset(taken)
