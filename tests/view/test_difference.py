"""Side by side: which nodes share a row."""

from hypothesis import given
from hypothesis import strategies as st

from qatc.view.difference import aligned

names = st.lists(st.sampled_from("abcdefghij"), unique=True)


def rows(before: str, after: str) -> list[str]:
    """Return each row as its two names, `-` where a side is empty."""
    return [
        (before[left + i] if left >= 0 else "-") + (after[right + i] if right >= 0 else "-")
        for left, right, count in aligned(list(before), list(after))
        for i in range(count)
    ]


def test_what_is_in_both_shares_a_row() -> None:
    assert rows("abcd", "abcd") == ["aa", "bb", "cc", "dd"]


def test_what_went_and_what_came_in_its_place_share_rows() -> None:
    assert rows("abcd", "axyd") == ["aa", "bx", "cy", "dd"]
    assert rows("ad", "axyd") == ["aa", "-x", "-y", "dd"]
    assert rows("abcd", "ad") == ["aa", "b-", "c-", "dd"]
    assert rows("", "ab") == ["-a", "-b"]


def test_a_node_that_moved_is_two_rows_and_the_others_stay_aligned() -> None:
    assert rows("abcd", "dabc") == ["-d", "aa", "bb", "cc", "d-"]


def test_a_graph_that_did_not_change_is_one_run() -> None:
    assert aligned(["a", "b", "c"], ["a", "b", "c"]) == [(0, 0, 3)]


@given(names, names)
def test_every_line_is_shown_once_and_in_order(before: list[str], after: list[str]) -> None:
    found = rows("".join(before), "".join(after))
    assert [row[0] for row in found if row[0] != "-"] == before
    assert [row[1] for row in found if row[1] != "-"] == after
    assert "--" not in found
