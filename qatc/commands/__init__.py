"""The commands of the `qatc` program, a file each; adding one is its file, one line here, and its test."""

from qatc.commands.command import Command
from qatc.commands.lower import LOWER

COMMANDS: tuple[Command, ...] = (LOWER,)

__all__ = ["COMMANDS", "LOWER", "Command"]
