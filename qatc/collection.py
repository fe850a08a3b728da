"""Python's collection of cyclic garbage, put off for a while."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def postponed_collection() -> Iterator[None]:
    """Collect no cyclic garbage inside the block.

    Making a graph allocates many small objects that stay, and each collection that this sets off looks at all objects
    of the process: a third of a second with torch loaded, up to half of a tracing's time. What is garbage meanwhile
    (nodes, tensors without data) is small.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
