"""The programs `qatc` and `qatc-lower`: their arguments, and what becomes of errors."""

import argparse
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import qatc
from qatc.commands import COMMANDS, LOWER, Command
from qatc.errors import QatcError, QatcWarning


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
        with _told(), _terminable():
            return command.run(args)
    except QatcError as error:
        if level == "DEBUG":
            logging.getLogger("qatc").exception("traceback")
        print(f"qatc: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qatc: interrupted; what was not complete is not written", file=sys.stderr)
        return 128 + signal.SIGINT
    except _Terminated:
        print("qatc: terminated; what was not complete is not written", file=sys.stderr)
        return 128 + signal.SIGTERM
    except BrokenPipeError:
        # The reader of our output is gone (`| head`). Python would complain of it once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"qatc: error: {error.strerror or error}: {error.filename or 'while writing'}", file=sys.stderr)
        return 2


class _Terminated(BaseException):
    """SIGTERM, as an exception: so files that are half written are removed on the way out."""


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(*_: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _told() -> Iterator[None]:
    """Tell qatc's warnings as a command does, without a place in qatc's own code."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **others: Any) -> None:
        if issubclass(category, QatcWarning):
            print(f"qatc: warning: {message}", file=sys.stderr)
        else:
            before(message, category, *rest, **others)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
