"""`qatc lint`: an ONNX file, of whatever origin, against the rules of a target."""

import argparse
import fnmatch
import json
from collections import Counter
from pathlib import Path

import onnx

from qatc.commands.command import Command
from qatc.errors import ConfigError, LintError, unknown
from qatc.targets.lint import RULE_LISTS, RULES, Finding, Severity, lint
from qatc.targets.lint.read import read_model

_EPILOG = """\
examples:
  qatc lint model.onnx --target tensorrt
  qatc lint model.onnx --target onnxruntime --rules 'ORT0*' --ignore ORT03 --json
  qatc lint --list-rules --target tidl

An error: the runtime refuses the file, or computes other values. A warning: a part runs in float or costs more, and the
file could be otherwise. A note: what the runtime does, and no file can change.

exit codes: 0 no errors; 1 errors found (with --warnings-as-errors warnings too); 2 bad input
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", help="the ONNX file")
    parser.add_argument(
        "--target", metavar="NAME", help=f"{', '.join(RULE_LISTS)} (default: the one that qatc lowered the file for)"
    )
    parser.add_argument(
        "--rules", action="append", default=[], metavar="IDS", help="only these of the target's rules: ids or globs"
    )
    parser.add_argument("--ignore", action="append", default=[], metavar="IDS", help="without these: ids or globs")
    parser.add_argument("--list-rules", action="store_true", help="print the rules: id, severity, what each is, source")
    parser.add_argument("--warnings-as-errors", action="store_true", help="exit with 1 for warnings too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def _run(args: argparse.Namespace) -> int:
    if args.model is None and not args.list_rules:
        raise LintError("no file is given", remedy="qatc lint model.onnx --target NAME")
    model = None if args.model is None else read_model(args.model)
    target = args.target or (None if model is None else _written_for(model))
    if target is None and model is not None:
        raise ConfigError(
            "no target is given, and the file names none",
            where=str(args.model),
            remedy=f"--target NAME, one of {', '.join(RULE_LISTS)}",
        )
    rules = _chosen(target, args.rules, args.ignore)
    if args.list_rules:
        _print_rules(rules, as_json=args.json)
        return 0
    assert model is not None
    findings = lint(model, rules, folder=args.model.parent)
    counts = Counter(finding.severity for finding in findings)
    if args.json:
        _print_json(args.model, target, rules, findings)
    else:
        for finding in findings:
            print(f"{finding.severity}: {finding.rule} {finding.node}: {finding.message}")
        print(f"{args.model}: {len(rules)} rules of {target}: {_summary(counts)}")
    return int(counts["error"] > 0 or (args.warnings_as_errors and counts["warning"] > 0))


def _written_for(model: onnx.ModelProto) -> str | None:
    """Return the target that the file itself names, as qatc's files do."""
    named = {entry.key: entry.value for entry in model.metadata_props}.get("qatc.target")
    return named if named in RULE_LISTS else None


def _chosen(target: str | None, only: list[str], ignore: list[str]) -> list[str]:
    if target is not None and target not in RULE_LISTS:
        raise unknown("target", target, RULE_LISTS, "targets: {}")
    rules = list(RULES) if target is None else list(RULE_LISTS[target])
    wanted, unwanted = _named(only, rules, target), _named(ignore, rules, target)
    return [rule for rule in rules if (rule in wanted or not only) and rule not in unwanted]


def _named(given: list[str], rules: list[str], target: str | None) -> set[str]:
    """Return the rules that ids and globs name; one that names none is an error."""
    found: set[str] = set()
    for name in (name.strip().upper() for names in given for name in names.split(",") if name.strip()):
        matching = fnmatch.filter(rules, name)
        if not matching:
            owner = "a target" if target is None else target
            raise unknown(f"lint rule of {owner}", name, rules, "`qatc lint --list-rules` has them all")
        found.update(matching)
    return found


def _print_rules(rules: list[str], *, as_json: bool) -> None:
    fields = ("id", "severity", "summary", "source")
    if as_json:
        print(json.dumps([{field: getattr(RULES[name], field) for field in fields} for name in rules], indent=2))
        return
    for name in rules:
        rule = RULES[name]
        print(f"{rule.id:7}{rule.severity:9}{rule.summary}  [{rule.source}]")


def _print_json(path: Path, target: str | None, rules: list[str], findings: tuple[Finding, ...]) -> None:
    counts = Counter(finding.severity for finding in findings)
    listed = [{"rule": f.rule, "severity": f.severity, "node": f.node, "message": f.message} for f in findings]
    total = {"errors": counts["error"], "warnings": counts["warning"], "notes": counts["note"]}
    print(json.dumps({"file": str(path), "target": target, "rules": rules, **total, "findings": listed}, indent=2))


def _summary(counts: Counter[Severity]) -> str:
    return f"{counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes"


LINT = Command("lint", "check an ONNX file with QDQ nodes against a target's rules", _EPILOG, _add_arguments, _run)
