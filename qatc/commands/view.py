"""`qatc view`: one HTML page of what every pass did, to be read without a network."""

import argparse
import webbrowser
from pathlib import Path

from qatc.commands.checkpoint import add_trust, load_checkpoint
from qatc.commands.command import Command
from qatc.errors import QatcError
from qatc.view import Dump, page_of, read_folder, read_model
from qatc.whole_file import replacing

_EPILOG = """\
examples:
  qatc view dumps/ -o report.html     of qatc.prepare(..., dump_dir="dumps"), or qatc lower --dump-dir dumps
  qatc view model.pt --open           of a saved model: its graph, how it is lowered, its weights on their grids

exit codes: 0 written; 2 bad input, nothing written
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a folder of dumps, or the checkpoint that qatc.save wrote")
    add_trust(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page (default: MODEL.html, here)")
    parser.add_argument("--open", action="store_true", help="show the page in the default browser")


def _run(args: argparse.Namespace) -> int:
    dump = read_folder(args.model) if args.model.is_dir() else read_model(load_checkpoint(args))
    output: Path = args.output or Path(f"{args.model.stem or 'dumps'}.html")
    page = page_of(dump).encode(errors="replace")
    try:
        with replacing(output) as file:
            file.write(page)
    except OSError as error:
        raise QatcError(
            f"the page cannot be written: {error.strerror}", where=str(output), remedy="choose another path with -o"
        ) from error
    print(f"wrote {output}: {_contents(dump)}, {len(page) / 1024:.0f} KiB")
    if args.open and not webbrowser.open(output.resolve().as_uri()):
        raise QatcError("there is no browser to open the page with", where=str(output), remedy="open the file yourself")
    return 0


def _contents(dump: Dump) -> str:
    changed = [step.nodes for step in dump.steps if step.nodes is not None]
    return f"{len(dump.steps)} steps, {max(map(len, changed))} nodes"


VIEW = Command("view", "show what every pass did as one HTML page", _EPILOG, _add_arguments, _run)
