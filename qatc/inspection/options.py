"""The options of commands that run passes: what of them is printed, and where they are dumped."""

import argparse
from pathlib import Path

from qatc.inspection.print_passes import PrintPasses


def add_pass_options(parser: argparse.ArgumentParser) -> None:
    """Add `--print-after-change`, `--print-after`, `--diff` and `--dump-dir`."""
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument(
        "--print-after-change", action="store_true", help="print the graph after each pass that changed something"
    )
    printed.add_argument(
        "--print-after", action="append", default=[], metavar="PASS", help="print it after this pass (repeatable)"
    )
    parser.add_argument("--diff", action="store_true", help="print only the lines that a pass changed")
    parser.add_argument("--dump-dir", type=Path, metavar="DIR", help="write the graph after each pass into this folder")


def printers(args: argparse.Namespace) -> tuple[PrintPasses, ...]:
    """Return the observer that prints what the options ask for; none if they ask for nothing."""
    wanted = args.print_after_change or args.print_after or args.diff
    return (PrintPasses(tuple(args.print_after), args.diff),) if wanted else ()
