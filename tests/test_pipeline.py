import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from inline_snapshot import snapshot
from torch import fx, nn

import qatc
from qatc import ir
from qatc.config import config_of
from qatc.errors import InvariantError, PassOrderError
from qatc.invariants import INVARIANTS, ONE_CALL_SITE, Invariant, Violation
from qatc.passes import DedupModules, FoldBnSelf, Functionalize, FuseConvBnAct, qat_pipeline
from qatc.pipeline import Pass, PassEvent, Pipeline
from qatc.targets import TARGETS, target_of
from qatc.trace import trace
from tests.models import Functional, SharedRelu, images


@dataclass(frozen=True)
class ShareAgain(Pass):
    """Undoes what dedup-modules did, and does not say so."""

    times: int = 2

    name: ClassVar[str] = "share-again"

    def run(self, gm: fx.GraphModule) -> bool:
        """Let the second ReLU be the first one again."""
        relus = [node for node, _ in ir.module_calls(gm) if ir.module_of(node, nn.ReLU)]
        relus[1].target = relus[0].target
        return True


@dataclass(frozen=True)
class ShareAndSay(ShareAgain):
    """The same, declared."""

    name: ClassVar[str] = "share-and-say"
    breaks: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        (
            (Functionalize(), DedupModules()),
            snapshot("""\
pass 'functionalize' (position 0) requires 'one_call_site_per_module', which no earlier pass ensures
  try: move 'dedup-modules' before 'functionalize'\
"""),
        ),
        (
            (DedupModules(), FuseConvBnAct()),
            snapshot("""\
pass 'fuse-conv-bn-act' (position 1) requires 'no_inplace_modules', which no earlier pass ensures
  try: add a pass that ensures 'no_inplace_modules'\
"""),
        ),
        (
            (DedupModules(), ShareAndSay(), Functionalize()),
            snapshot("""\
pass 'functionalize' (position 2) requires 'one_call_site_per_module', which 'share-and-say' breaks
  try: move 'functionalize' before 'share-and-say'\
"""),
        ),
    ],
)
def test_an_order_in_which_a_pass_lacks_what_it_requires_is_refused(passes: tuple[Pass, ...], message: str) -> None:
    with pytest.raises(PassOrderError) as caught:
        Pipeline(passes)
    assert str(caught.value) == message


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("config", ["w8a8", "w4a4-pow2"])
def test_the_whole_pipeline_is_in_order_and_each_of_its_passes_says_what_it_is(target: str, config: str) -> None:
    pipeline = qat_pipeline(target_of(target), config_of(config))
    assert [step.name for step in pipeline][:5] == [
        "dedup-modules", "functionalize", "decompose-composites", "functional-to-layer", "functional-to-module",
    ]  # fmt: skip
    for step in pipeline:
        assert (type(step).__doc__ or "").strip()
        assert str(step).startswith(step.name)


def test_a_pass_that_breaks_an_invariant_is_named_with_the_node_and_its_line() -> None:
    gm = trace(SharedRelu(), [images()])
    with pytest.raises(InvariantError) as caught:
        Pipeline((DedupModules(), ShareAgain())).run(gm)
    assert re.sub(r"py:\d+", "py:LINE", str(caught.value)) == snapshot("""\
after 'share-again': invariant 'one_call_site_per_module' broken at %relu_1 (models.py:LINE): module 'relu' is also called by %relu
  %relu_1 = ReLU(%b) : f32[N,4,8,8]  # relu models.py:LINE   <-- here
  try: this is a defect of the pass 'share-again': please report it with the dump before it\
""")  # noqa: E501  (the message has a long line)


def test_a_pass_may_break_what_it_declares() -> None:
    Pipeline((DedupModules(), ShareAndSay())).run(trace(SharedRelu()))


def test_what_a_pass_ensures_is_checked() -> None:
    @dataclass(frozen=True)
    class Promises(Pass):
        name: ClassVar[str] = "promises"
        ensures: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)

        def run(self, gm: fx.GraphModule) -> bool:
            return True

    with pytest.raises(
        InvariantError, match="after 'promises': invariant 'one_call_site_per_module' broken at %relu_1"
    ):
        Pipeline((Promises(),)).run(trace(SharedRelu()))


def test_an_invariant_of_ones_own_is_checked_too() -> None:
    def no_relu(gm: fx.GraphModule) -> Iterator[Violation]:
        return (Violation(node, "it is a ReLU") for node, _ in ir.module_calls(gm) if ir.module_of(node, nn.ReLU))

    @dataclass(frozen=True)
    class Promises(Pass):
        name: ClassVar[str] = "promises"
        ensures: ClassVar[tuple[Invariant, ...]] = (Invariant("no_relu", "nothing is a ReLU", no_relu),)

        def run(self, gm: fx.GraphModule) -> bool:
            return True

    with pytest.raises(InvariantError, match=r"'no_relu' broken at %relu .*it is a ReLU"):
        Pipeline((Promises(),)).run(trace(SharedRelu()))


def test_observers_are_told_of_every_pass_in_order() -> None:
    events: list[PassEvent] = []
    gm = trace(Functional(), [images()])
    qat_pipeline(TARGETS["tensorrt"], config_of("w8a8")).run(gm, [events.append])
    assert [(e.index, e.name, e.changed) for e in events] == snapshot(
        [
            (1, "dedup-modules", False),
            (2, "functionalize", False),
            (3, "decompose-composites", False),
            (4, "functional-to-layer", False),
            (5, "functional-to-module", True),
            (6, "fuse-conv-bn-act", True),
            (7, "fold-bn-self", False),
            (8, "insert-quantizers", True),
            (9, "share-scales", False),
            (10, "leave-clips", False),
        ]
    )
    assert all(event.gm is gm and event.seconds >= 0 for event in events)


def test_until_stops_behind_the_pass_of_that_name() -> None:
    events: list[PassEvent] = []
    pipeline = qat_pipeline(TARGETS["tensorrt"], config_of("w8a8"))
    pipeline.run(trace(Functional()), [events.append], until="fuse-conv-bn-act")
    assert [event.name for event in events][-2:] == ["functional-to-module", "fuse-conv-bn-act"]


def test_until_a_pass_that_there_is_not_is_an_error() -> None:
    with pytest.raises(PassOrderError) as caught:
        Pipeline((DedupModules(), Functionalize())).run(trace(SharedRelu()), until="fuse")
    assert str(caught.value) == snapshot("""\
no pass is named 'fuse'
  try: the passes are: dedup-modules, functionalize\
""")


def test_dumps_are_numbered_files_of_the_passes_that_changed_something(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "dumps"
    qatc.prepare(Functional(), images(), dump_dir=folder)
    assert sorted(path.name for path in folder.iterdir()) == snapshot(
        [
            "00-trace.json",
            "00-trace.txt",
            "05-functional-to-module.json",
            "05-functional-to-module.txt",
            "06-fuse-conv-bn-act.json",
            "06-fuse-conv-bn-act.txt",
            "08-insert-quantizers.json",
            "08-insert-quantizers.txt",
            "10-leave-clips.json",
            "10-leave-clips.txt",
            "manifest.json",
        ]
    )
    assert "ReLU" in (folder / "05-functional-to-module.txt").read_text()
    assert "relu(%conv" in (folder / "00-trace.txt").read_text()


def test_the_options_of_a_pass_are_its_fields() -> None:
    assert str(ShareAgain(times=3)) == "share-again times=3"
    assert str(DedupModules()) == "dedup-modules"
    with pytest.raises(AttributeError):
        ShareAgain().times = 4  # type: ignore[misc]


def test_every_invariant_has_a_name_a_meaning_and_a_pass_that_ensures_it() -> None:
    ensured = {i for t in TARGETS.values() for p in qat_pipeline(t, config_of("w8a8-pow2")) for i in p.ensures}
    assert set(INVARIANTS) == ensured
    assert all(invariant.meaning and str(invariant) == invariant.name for invariant in INVARIANTS)
    assert FoldBnSelf.ensures[0] in ensured
