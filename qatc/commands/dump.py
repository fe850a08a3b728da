"""`qatc dump`: the graph of a saved model, as text or as data."""

import argparse
import sys
from pathlib import Path

from qatc.commands.checkpoint import add_checkpoint, load_checkpoint
from qatc.commands.command import Command
from qatc.errors import QatcError
from qatc.inspection import FORMATS
from qatc.whole_file import replacing

_EPILOG = """\
examples:
  qatc dump model.pt                              one line a node
  qatc dump model.pt --format json | jq '.nodes[] | select(.why_float != "") | .name'
  qatc dump model.pt --format graphml -o model.graphml

exit codes: 0 written; 2 bad input, nothing written
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="what is written (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to (default: standard output)")


def _run(args: argparse.Namespace) -> int:
    text = FORMATS[args.format](load_checkpoint(args))
    if args.output is None:
        sys.stdout.write(text)
        return 0
    try:
        with replacing(args.output) as file:
            file.write(text.encode())
    except OSError as error:
        raise QatcError(
            f"the output cannot be written: {error.strerror}", where=str(args.output), remedy="choose another path"
        ) from error
    return 0


DUMP = Command("dump", "print the graph of a saved model: text, JSON or GraphML", _EPILOG, _add_arguments, _run)
