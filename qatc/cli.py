"""The programs `qatc` and `qatc-lower`: their arguments, and what becomes of errors."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import qatc
from qatc.commands import COMMANDS, LOWER, Command
from qatc.errors import QatcError


def main(argv: Sequence[str] | None = None) -> int:
    """Run `qatc <command>`; return the exit code."""
    parser = argparse.ArgumentParser("qatc", description="A quantization-aware-training compiler for PyTorch.")
    parser.add_argument("--version", action="version", version=f"qatc {qatc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        command.add_arguments(
            commands.add_parser(
                command.name, help=command.summary, description=_sentence(command), epilog=command.epilog,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )  # fmt: skip
    args = parser.parse_args(argv)
    return _guarded(next(command for command in COMMANDS if command.name == args.command), args)


def lower_main(argv: Sequence[str] | None = None) -> int:
    """Run `qatc-lower`, which is `qatc lower`; return the exit code."""
    parser = argparse.ArgumentParser(
        "qatc-lower", description=_sentence(LOWER), epilog=LOWER.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    LOWER.add_arguments(parser)
    return _guarded(LOWER, parser.parse_args(argv))


def _sentence(command: Command) -> str:
    return f"{command.summary[0].upper()}{command.summary[1:]}."


def _guarded(command: Command, args: argparse.Namespace) -> int:
    """Run a command; an error of ours becomes its message and exit code 2 (a traceback with QATC_LOG=debug)."""
    level = os.environ.get("QATC_LOG", "warning").upper()
    logging.basicConfig(level=getattr(logging, level, logging.WARNING), format="%(name)s: %(message)s")
    try:
        return command.run(args)
    except QatcError as error:
        if level == "DEBUG":
            logging.getLogger("qatc").exception("traceback")
        print(f"qatc: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qatc: interrupted; nothing was written", file=sys.stderr)
        return 130
