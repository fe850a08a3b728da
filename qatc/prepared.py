"""The graph module that `prepare` returns: an ordinary `GraphModule` that remembers what it was prepared for."""

from typing import Any

from torch import fx

from qatc.report import Report, make_report
from qatc.spec import QConfig
from qatc.targets import Target

_TARGET, _CONFIG, _INPUTS = "qatc_target", "qatc_config", "qatc_inputs"


class PreparedModel(fx.GraphModule):
    """A graph that trains, copies and pickles like any module; `report` says what is quantized, and what is not."""

    @property
    def report(self) -> Report:
        """Every op of the model: quantized how, or float and why."""
        return make_report(self)

    @property
    def target(self) -> Target | None:
        """The target that quantizers were placed for; None before they are."""
        found: Target | None = self.meta.get(_TARGET)
        return found

    @property
    def config(self) -> QConfig | None:
        """The configuration that it was prepared with; None before."""
        found: QConfig | None = self.meta.get(_CONFIG)
        return found

    @property
    def input_types(self) -> tuple[tuple[str, tuple[int, ...]], ...] | None:
        """Type and shape of each input as last seen; None if none was."""
        found: tuple[tuple[str, tuple[int, ...]], ...] | None = self.meta.get(_INPUTS)
        return found

    def remember(self, target: Target, config: QConfig) -> None:
        """Note what the model was prepared for."""
        self.meta[_TARGET], self.meta[_CONFIG] = target, config

    def remember_inputs(self, inputs: Any) -> None:
        """Note types and shapes of the inputs, for lowering."""
        self.meta[_INPUTS] = tuple((str(x.dtype).removeprefix("torch."), tuple(x.shape)) for x in inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        from qatc.checkpoint import pickled, unpickled  # noqa: PLC0415  (the checkpoint builds prepared models)

        return unpickled, pickled(self)
