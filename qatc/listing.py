"""The targets that there are, and the rules of each, as text and as plain data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from qatc.targets import TARGETS, ActivationRule, OpRule, Target, target_of

_RESIDUAL = {"quantized": "both inputs", "between": "both inputs", "skip": "skip input", "any": "float"}
_INPUTS = {"quantized": "quantized", "between": "if the result is", "skip": "skip input", "any": "-"}
_OUTPUTS = {
    "quantized": "quantized", "wanted": "if wanted", "same": "as its input", "again": "as its input, again", "any": "-",
}  # fmt: skip


@dataclass(frozen=True)
class TargetListing:
    """Targets in the order of the table: iterated, looked up by name, printed, or as plain data for a JSON file."""

    targets: tuple[Target, ...]

    def __iter__(self) -> Iterator[Target]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, name: str) -> Target:
        """Return the target of that name; an unknown one is a `ConfigError`."""
        return target_of(name)

    def __str__(self) -> str:
        head = ("target", "activations", "weights", "scales", "biases", "residual add", "concat", "opset", "lint")
        rows = [
            (
                target.name, _activations(target), _weights(target), "powers of two" if target.pow2 else "any",
                target.file.bias, _RESIDUAL[target.rule("Add").inputs], f"{target.concat} grids",
                "{}-{}".format(*target.file.opset), f"{len(target.lint)} rules" if target.lint else "-",
            )
            for target in self.targets
        ]  # fmt: skip
        return "\n".join([*_table(head, rows), "", *(f"{target.name}: {target.summary}" for target in self.targets)])

    def rules(self, name: str | None = None) -> str:
        """Return what a target does with each operator, as a table; of all targets where no name is given.

        Raises:
            ConfigError: there is no such target.

        """
        chosen = self.targets if name is None else (target_of(name),)
        return "\n\n".join(_rules(target) for target in chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return every field of every target as lists, dicts, texts and numbers, by the target's name."""
        return {target.name: _plain(target) for target in self.targets}


def targets() -> TargetListing:
    """Return the targets that `prepare` and `lower` know by name."""
    return TargetListing(tuple(TARGETS.values()))


def _activations(target: Target) -> str:
    """Return the codes of activations: `u8/asym, symmetric in 20 ops; to 16 bits`."""
    rule = target.activation
    others = 0 if rule.symmetric else sum(op.grid != "any" for op in target.ops.values())
    text = f"{_codes(rule)}, symmetric in {others} ops" if others else _codes(rule)
    return f"{text}; to {target.most_bits} bits" if target.most_bits > 8 else text


def _codes(rule: ActivationRule) -> str:
    return f"{'s8' if rule.signed else 'u8'}{'' if rule.symmetric else '/asym'}"


def _weights(target: Target) -> str:
    kinds = sorted(target.weight.per_channel & {"Conv", "ConvTranspose", "Gemm"})
    return f"s8, per channel in {', '.join(kinds)}" if kinds else "s8, one scale"


def _rules(target: Target) -> str:
    head = ("op", "inputs", "output", "grid", "fused behind it", "why float")
    kinds = [*target.ops, *(kind for kind in target.epilogues if kind not in target.ops)]
    rows = [_row(target, kind, target.rule(kind)) for kind in kinds]
    lines = [f"{target.name}: {target.summary}", *_table(head, rows), "any other operator stays in float"]
    for how, activations in (("written as parts", target.parts), ("one op, however written", target.wholes)):
        if activations:
            lines.append(f"{how}: {', '.join(sorted(activations))}")
    if target.activation.network_input != "any":
        lines.append(f"inputs of the network: {target.activation.network_input}")
    lines += [f"runtime option: {name} = {value}" for name, value in target.runtime_options.items()]
    return "\n".join(lines)


def _row(target: Target, kind: str, rule: OpRule) -> tuple[str, ...]:
    fixed = [f"{'s' if grid.signed else 'u'}{grid.bits} {grid.scale:g}@{grid.zero_point}" for grid in rule.fixed]
    grid = ", ".join(filter(None, ["" if rule.grid == "any" else rule.grid, *fixed]))
    output = _OUTPUTS[rule.output] + ("" if rule.final or rule.output != "quantized" else ", but at the end")
    fused = ", ".join(sorted(target.epilogues.get(kind, ())))
    taken = f"taken in by {', '.join(sorted(rule.into))}" if rule.into else ""
    return kind, _INPUTS[rule.inputs], output, grid, fused or taken, rule.reason


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [lines[0].rstrip(), "-" * sum(widths, 2 * (len(widths) - 1)), *(line.rstrip() for line in lines[1:])]


def _plain(value: Any) -> Any:
    """Return data of frozen dataclasses, mappings, sets and tuples as JSON has it."""
    match value:
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
        case _ if is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
