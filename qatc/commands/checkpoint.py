"""The arguments of commands that read a saved model."""

import argparse
from pathlib import Path

import qatc
from qatc.prepared import PreparedModel


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add the model, and what it is trusted with."""
    parser.add_argument("model", type=Path, help="the checkpoint that qatc.save wrote")
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add what a model is trusted with."""
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CLASS", help="a class of your own that the model may hold"
    )
    parser.add_argument(
        "--trust-pickle", action="store_true", help="load a pickled model, which can run any code that is in it"
    )


def load_checkpoint(args: argparse.Namespace) -> PreparedModel:
    """Return the model; a `CheckpointError` if it is none."""
    return qatc.load(args.model, allow=tuple(args.allow), trust_pickle=args.trust_pickle)
