"""Files that are there whole or not at all, whatever interrupts their writing."""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write to, which takes the place of `path` as `replacing_all` does."""
    with replacing_all((path,)) as (file,):
        yield file


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Give files to write to, which take the places of `paths` when the block ends without an error, none before.

    An error or a signal that Python handles removes what was written. What a killed process could not remove,
    `.<name>.<process>-<thread>.tmp` beside it, the next write to the same path does. A link is followed; the mode of a
    file that was there stays.

    Raises:
        OSError: a folder or the disk takes no such file, or what is there is read-only, or none.

    """
    with ExitStack() as open_files, ExitStack() as unfinished:
        files: list[IO[bytes]] = []
        targets = [Path(os.path.realpath(path)) for path in paths]
        temporaries = [_temporary(path) for path in targets]
        for path, temporary in zip(paths, temporaries, strict=True):
            temporary.unlink(missing_ok=True)
            unfinished.callback(_removed, temporary)
            try:
                files.append(open_files.enter_context(temporary.open("xb")))
            except OSError as error:
                error.filename = str(path)
                raise
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for path, temporary in zip(targets, temporaries, strict=True):
            if path.exists():
                shutil.copymode(path, temporary)
            os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    """Return the name of what is written first, beside the path, where nothing of earlier writes is left."""
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise OSError(errno.EPERM, "it is no file, or read-only", str(path))
    _remove_left(path)
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def _removed(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove what processes that are no more left of writing to this path."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(\d+)-\d+\.tmp")
    with suppress(OSError):  # of another user, or gone meanwhile: not ours to tell
        for entry in path.parent.iterdir():
            found = ours.fullmatch(entry.name)
            if found and not _is_running(int(found[1])):
                entry.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
