"""The drawing: layers, the straight line, lanes that cross no node."""

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qatc.view.drawing import Drawing, drawn


def nodes(**inputs: str) -> list[dict[str, Any]]:
    """Return nodes by name, each with the names of its inputs, a letter each; w is of weights, and n a number."""
    return [
        {"name": name, "inputs": list(read), "weight": name == "w", "type": None if name == "n" else "f32[1]"}
        for name, read in inputs.items()
    ]


def places(drawing: Drawing, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    return dict(zip(names, drawing.places, strict=True))


def test_a_chain_is_a_line() -> None:
    drawing = drawn(nodes(a="", b="a", c="b"))
    assert drawing.places == ((0, 0), (0, 1), (0, 2))
    assert drawing.edges == ((0, 1, 0), (1, 2, 0))


def test_a_skip_connection_has_a_lane_of_its_own() -> None:
    drawing = drawn(nodes(a="", b="a", c="b", d="ac"))
    assert drawing.places == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert (0, 3, 1) in drawing.edges


def test_a_longer_connection_is_outside_a_shorter_one() -> None:
    drawing = drawn(nodes(a="", b="a", c="b", d="c", e="bd", f="ae"))
    assert {(s, t): lane for s, t, lane in drawing.edges if lane} == {(1, 4): 1, (0, 5): 2}


def test_a_branch_is_beside_the_line() -> None:
    drawing = drawn(nodes(a="", b="a", c="b", s="a", d="cs"))
    assert places(drawing, "abcsd")["s"] == (1, 1)
    assert (3, 4, 1) in drawing.edges, "down its own lane, beside c"


def test_what_is_computed_from_weights_is_right_above_its_reader() -> None:
    found = places(drawn(nodes(a="", b="a", w="", c="bw")), "abwc")
    assert found == {"a": (0, 0), "b": (0, 1), "w": (1, 1), "c": (0, 2)}


def test_a_size_is_right_above_what_is_reshaped_to_it() -> None:
    drawing = drawn(nodes(a="", n="a", b="a", c="b", d="c", e="dn"))
    assert places(drawing, "anbcde")["n"] == (1, 3)
    assert (0, 1, 1) in drawing.edges, "down the lane that it stands in"


def test_removed_nodes_are_left_of_the_line_which_stays_straight() -> None:
    before = nodes(a="", b="a", r="b", c="r")
    drawing = drawn(nodes(a="", b="a", c="b"), [before[2]], before)
    assert places(drawing, "abcr") == {"a": (0, 0), "b": (0, 1), "r": (-1, 2), "c": (0, 3)}
    assert sorted(drawing.edges) == [(0, 1, 0), (1, 2, 0), (1, 3, 0), (3, 2, 0)]


def test_a_removed_node_is_drawn_where_a_pass_turned_the_order_round() -> None:
    before = nodes(a="", b="a", r="b", c="r")
    drawing = drawn(nodes(a="", c="a", b="c"), [before[2]], before)
    assert places(drawing, "acbr").keys() == set("acbr")
    assert sorted(drawing.edges) == [(0, 1, 0), (1, 2, 0)], "neither of its edges fits"


def test_an_empty_graph_is_an_empty_drawing() -> None:
    assert drawn([]) == Drawing((), ())


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 14))):
        inputs = draw(st.lists(st.sampled_from(range(i)), unique=True, max_size=3)) if i else []
        weight = draw(st.booleans()) and all(found[k]["weight"] for k in inputs)
        kind = draw(st.sampled_from(["f32[1]", None]))
        found.append({"name": str(i), "inputs": [str(k) for k in inputs], "weight": weight, "type": kind})
    return found


@given(graphs(), st.sets(st.integers(0, 13)))
def test_nothing_stands_on_anything_else(before: list[dict[str, Any]], taken: set[int]) -> None:
    removed = [node for i, node in enumerate(before) if i in taken]
    gone = {node["name"] for node in removed}
    kept = [node for node in before if node["name"] not in gone]
    after = [{**node, "inputs": [name for name in node["inputs"] if name not in gone]} for node in kept]
    drawing = drawn(after, removed, before)
    assert len(set(drawing.places)) == len(before)
    assert min(rank for _, rank in drawing.places) == 0
    for source, target, lane in drawing.edges:
        (own, start), (other, end) = drawing.places[source], drawing.places[target]
        assert start < end
        if end - start > 1:
            assert lane or own == other == 0, "a long edge is straight on the line alone"
            assert not [rank for at, rank in drawing.places if at == lane and start < rank < end]
