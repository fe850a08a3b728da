"""The suites by name."""

import fnmatch
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.zoo_suites.entry import Entry

SUITES = ("torchvision", "timm", "transformers", "classics")
_FOLDER = Path(__file__).parent


class UnknownSuite(Exception):
    """No suite has this name, or it cannot be loaded; the message says what there is."""


def entries(suite: str) -> list[Entry]:
    """Return the models of a suite: one of `SUITES`, or a module of the user's that has a function `entries`."""
    place = f"tools.zoo_suites.{suite}_suite" if suite in SUITES else suite
    if suite not in SUITES and "." not in suite and ":" not in suite and not Path(f"{suite}.py").exists():
        raise UnknownSuite(f"no suite {suite!r}; there are {', '.join(SUITES)}, and package.module with `entries()`")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        found: list[Entry] = list(importlib.import_module(place).entries())
    except (ImportError, AttributeError) as error:
        raise UnknownSuite(f"suite {suite!r} cannot be loaded: {error}") from error
    finally:
        sys.path.remove(here)
    return found


def chosen(suite: str, *globs: str) -> list[Entry]:
    """Return the models of a suite whose names match one of the globs, in the suite's order."""
    return [entry for entry in entries(suite) if any(fnmatch.fnmatchcase(entry.name, glob) for glob in globs)]


def entry_named(suite: str, name: str) -> Entry:
    """Return one model of a suite."""
    return next(entry for entry in entries(suite) if entry.name == name)


def known_file(suite: str) -> Path:
    """Return the list of the suite's models that are known to pass."""
    return _FOLDER / "known_good" / f"{suite}.txt"


def read_known(path: Path) -> set[str]:
    """Return the names in such a list; none where there is no file."""
    if not path.exists():
        return set()
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line}


def write_known(path: Path, names: Sequence[str]) -> None:
    """Write such a list, a name a line."""
    head = f"# Models of this suite that passed every stage; written by tools/zoo --suite {path.stem} --update-known.\n"
    path.write_text(head + "".join(f"{name}\n" for name in names), encoding="utf-8")
