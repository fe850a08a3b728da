"""What a command of the `qatc` program is: a name, a line of help, its arguments and what runs."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command: `qatc <name>`.

    `summary` is its line in the list of commands, `epilog` an example and its exit codes; `add_arguments` fills its
    parser; `run` does the work and returns the exit code. A `QatcError` becomes a message and exit code 2.
    """

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
