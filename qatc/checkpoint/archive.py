"""A zip file of torch's, checked before anything in it is read."""

import zipfile
from pathlib import Path

from qatc.errors import CheckpointError


def checked_entries(path: Path, kind: str, remedy: str) -> tuple[str, ...]:
    """Return the names of the entries of an archive that torch wrote, whose bytes are those that were written.

    Torch itself loads altered weights without a word, and names are only ever looked up here, never paths to write to.

    Args:
        path: the file.
        kind: what it should be, for the message.
        remedy: what to do about a file that is none.

    Raises:
        CheckpointError: it is cut short or altered, or made otherwise: packed, with two entries of one name, or with
            entries that overlap, so that reading them takes far more memory than the file does.

    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = tuple(entry.filename for entry in entries)
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            twice = len(set(names)) < len(names)
            too_much = sum(entry.file_size for entry in entries) > path.stat().st_size
            damaged = None if packed or twice or too_much else archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError("the file is damaged, or cut short", remedy=_SAVE_AGAIN) from error
    if packed:
        raise CheckpointError(f"this is an archive, not {kind}", remedy=remedy)
    if twice or too_much:
        what = "has two entries of one name" if twice else "declares more bytes than it has"
        raise CheckpointError(f"the file is damaged: its archive {what}", remedy=_SAVE_AGAIN)
    if damaged is not None:
        raise CheckpointError(f"the file is damaged: {damaged} is not what was written", remedy=_SAVE_AGAIN)
    return names


_SAVE_AGAIN = "save it again, or take another copy"
