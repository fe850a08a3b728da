"""A prepared model run node by node in eval mode, so that others can look at each tensor on its way."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import fx, nn


class SteppedRun(fx.Interpreter):
    """One batch on its way through the graph, node by node; a tensor is dropped behind its last reader."""

    def __init__(self, gm: fx.GraphModule, values: Mapping[str, Any]) -> None:
        super().__init__(gm)
        self.given = values

    def step(self, node: fx.Node) -> None:
        """Run the node and keep its result, and drop what nothing reads any more."""
        self.env[node] = self.run_node(node)
        self.drop(node)

    def drop(self, node: fx.Node) -> None:
        """Drop what nothing behind the node reads."""
        for done in self.user_to_last_uses.get(node, []):
            del self.env[done]

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the argument of that name, or its default."""
        name = str(target).lstrip("*")
        return self.given[name] if name in self.given else args[0] if args else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode inside the block; each module's mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
