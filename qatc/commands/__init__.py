"""The commands of the `qatc` program, a file each; adding one is its file, one line here, and its test."""

from qatc.commands.accumulators import ACCUMULATORS
from qatc.commands.command import Command
from qatc.commands.debug import DEBUG
from qatc.commands.dump import DUMP
from qatc.commands.lint import LINT
from qatc.commands.lower import LOWER
from qatc.commands.view import VIEW

COMMANDS: tuple[Command, ...] = (LOWER, DUMP, VIEW, DEBUG, LINT, ACCUMULATORS)

__all__ = ["ACCUMULATORS", "COMMANDS", "DEBUG", "DUMP", "LINT", "LOWER", "VIEW", "Command"]
