"""The page of all lint rules, made from the rules themselves.

python -m tools.lint_docs          writes docs/lint.md
python -m tools.lint_docs --check  exits with 1 if it is not up to date
"""

import argparse
import sys
from pathlib import Path

from qatc.targets.lint import RULE_LISTS, RULES

PAGE = Path(__file__).parent.parent / "docs" / "lint.md"
_HEAD = """\
# Lint rules

`qatc lint model.onnx --target NAME` checks a QDQ file, of whatever origin, against a target's rules; `qatc-lower` does
so with each file that it writes, and writes none with an error. This page is made by `python -m tools.lint_docs`.

- **error**: the runtime refuses the file, or computes other values than it says; exit code 1.
- **warning**: a part runs in float or costs more, and the file could be otherwise (`--warnings-as-errors`).
- **note**: what the runtime does, and no file can change.

`--rules 'ORT0*'` and `--ignore TRT18` pick rules, `--json` prints an object, `--list-rules` this list. What is
"measured" is measured again by the tests, on the runtime itself. Not in a file, and so not here: ONNX Runtime's session
option `session.enable_quant_qdq_cleanup` removes requantization that is meant (half of the codes change); never set it.
"""


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    shown: set[str] = set()
    for target, rules in RULE_LISTS.items():
        shared = [name for name in rules if name in shown]
        parts.append(f"## {target}\n")
        if shared:
            parts.append(f"{', '.join(shared)} of the list before, and:\n")
        parts.append("| rule | severity | what the file keeps, or what is noted | source |\n|---|---|---|---|")
        rows = [RULES[name] for name in rules if name not in shown]
        parts.append("\n".join(f"| {r.id} | {r.severity} | {r.summary} | {r.source} |" for r in rows) + "\n")
        shown.update(rules)
    return "\n".join(parts)


def _main() -> int:
    parser = argparse.ArgumentParser("lint_docs", description="Write docs/lint.md from the rules.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    if parser.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
