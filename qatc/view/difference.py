"""Which lines of two dumps stand side by side: nodes are matched by their names, which are unique in a graph."""

from bisect import bisect_left
from collections.abc import Sequence

# `count` rows whose left and right lines follow each other, from `left` and `right` on; -1 where a side is empty.
Run = tuple[int, int, int]


def aligned(before: Sequence[str], after: Sequence[str]) -> list[Run]:
    """Return the rows of a side-by-side view of two graphs, given the names of their nodes, as runs.

    A node of both graphs is one row, as many as keep their order; between them those that went (left) and those that
    came (right) share rows.
    """
    rows: list[tuple[int, int]] = []
    left = right = 0
    for at, to in (*_in_both(before, after), (len(before), len(after))):
        gone, new = at - left, to - right
        rows += [(left + i if i < gone else -1, right + i if i < new else -1) for i in range(max(gone, new))]
        if at < len(before):
            rows.append((at, to))
        left, right = at + 1, to + 1
    return _runs(rows)


def _in_both(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of the most names that are in both in one order: the longest increasing subsequence."""
    places = {name: i for i, name in enumerate(after)}
    pairs = [(i, places[name]) for i, name in enumerate(before) if name in places]
    ends: list[int] = []  # the least last place of a subsequence of each length, and which pair it is
    last: list[int] = []
    earlier: list[int] = []
    for k, (_, place) in enumerate(pairs):
        length = bisect_left(ends, place)
        earlier.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [place]
        last[length : length + 1] = [k]
    found = []
    k = last[-1] if last else -1
    while k >= 0:
        found.append(pairs[k])
        k = earlier[k]
    return found[::-1]


def _runs(rows: Sequence[tuple[int, int]]) -> list[Run]:
    runs: list[Run] = []
    for left, right in rows:
        if runs:
            l0, r0, count = runs[-1]
            if left == (l0 + count if l0 >= 0 else -1) and right == (r0 + count if r0 >= 0 else -1):
                runs[-1] = (l0, r0, count + 1)
                continue
        runs.append((left, right, 1))
    return runs
