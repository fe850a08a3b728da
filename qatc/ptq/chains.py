"""Layers in a row whose channels can be scaled against one another, and what stands in the way elsewhere."""

from dataclasses import dataclass

import networkx as nx
from torch import fx, nn

from qatc import ir
from qatc.layers import Layer, is_depthwise, layers_of, shared_tensors
from qatc.modules.fused import FusedConv, FusedLinear
from qatc.modules.kinds import op_kind
from qatc.modules.transposed import FusedConvTranspose
from qatc.quantizers import Quantizer

# f(s * x) = s * f(x) for every s > 0, channel by channel, whatever the shape.
HOMOGENEOUS = (
    nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
# The same of [N, C, ...] alone: over a Linear's result they would mix its channels.
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
CONVOLUTIONS = (FusedConv, FusedConvTranspose)


@dataclass(frozen=True)
class Link:
    """Two layers of which only the second reads the first, and the calls in between.

    `repeats` is how many inputs of the second each channel of the first becomes (a Flatten's positions). `clips` are
    the calls that clip at six, which a link may only cross if they are replaced by a ReLU.
    """

    first: Layer
    second: Layer
    between: tuple[fx.Node, ...]
    repeats: int
    clips: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Chain:
    """Links in a row; every layer but the first and the last is a depthwise convolution."""

    links: tuple[Link, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in order."""
        return (*(link.first for link in self.links), self.links[-1].second)


def chains_of(gm: fx.GraphModule, *, over_clips: bool) -> tuple[list[Chain], dict[str, str]]:
    """Return the chains in graph order, and why each layer that ends none early does not go on, by name.

    `over_clips` says whether a ReLU6 may be crossed.
    """
    layers = {layer.node: layer for layer in layers_of(gm)}
    shared = shared_tensors(gm)
    links: dict[fx.Node, Link] = {}
    reasons: dict[str, str] = {}
    for layer in layers.values():
        found = _link(layer, layers, shared, over_clips)
        if isinstance(found, Link):
            links[layer.node] = found
        else:
            reasons[layer.name] = found
    row: nx.DiGraph[fx.Node] = nx.DiGraph()
    row.add_nodes_from(links)
    for node, link in links.items():
        if is_depthwise(link.second.module) and link.second.node in links:
            row.add_edge(node, link.second.node)
    order = {node: i for i, node in enumerate(links)}
    rows = (sorted(part, key=order.__getitem__) for part in nx.weakly_connected_components(row))
    return [Chain(tuple(links[node] for node in part)) for part in rows], reasons


def _link(layer: Layer, layers: dict[fx.Node, Layer], shared: set[int], over_clips: bool) -> Link | str:
    """Return the link from this layer to the next, or why there is none."""
    if why := _not_scalable(layer, shared):
        return why
    clips: list[fx.Node] = []
    between: list[fx.Node] = []
    flattened = False
    activation = layer.module.activation
    if isinstance(activation, nn.Hardtanh):
        if not _clips_at_six(activation):
            return f"its {type(activation).__name__} clips"
        clips.append(layer.node)
    node = layer.node
    while True:
        reader = ir.only_user(node)
        if reader is None or reader.op != "call_module":
            return "its result is read at several places" if len(node.users) > 1 else "no layer reads its result"
        if reader in layers:
            break
        module = ir.module_of(reader)
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and isinstance(layer.module, CONVOLUTIONS):
            flattened = True
        elif _clips_at_six(module):
            clips.append(reader)
        elif not isinstance(module, (Quantizer, *HOMOGENEOUS)) and not (
            isinstance(module, POOLS) and isinstance(layer.module, CONVOLUTIONS) and not flattened
        ):
            return f"{reader.target} ({op_kind(module) if module else reader.target}) is not homogeneous"
        between.append(reader)
        node = reader
    if clips and not over_clips:
        return "it is clipped at six (replace_relu6=True makes that a ReLU)"
    return _linked(Link(layer, layers[reader], tuple(between), 1, tuple(clips)), node, flattened, shared)


def _linked(link: Link, read: fx.Node, flattened: bool, shared: set[int]) -> Link | str:
    """Return the link with its repeats, or why the second layer cannot take the channels of the first."""
    second = link.second
    if second.squashes:
        return f"the weights of {second.name} go through tanh, which takes no factor"
    if second.node.args[0] is not read or id(second.module.weight) in shared:
        return f"the weights of {second.name} are not its own alone"
    if isinstance(second.module, FusedLinear) != (isinstance(link.first.module, FusedLinear) or flattened):
        return f"{second.name} reads its channels in another dimension"
    channels, inputs = _outputs(link.first), _inputs(second)
    if inputs % channels or (not flattened and inputs != channels):
        return f"{second.name} reads {inputs} channels, not {channels}"
    return Link(link.first, second, link.between, inputs // channels, link.clips)


def _not_scalable(layer: Layer, shared: set[int]) -> str:
    """Say why the layer's outputs cannot be scaled, or return an empty text."""
    if layer.squashes:
        return "its weights go through tanh, which takes no factor"
    if layer.bn is not None and layer.bn.weight is None:
        return "its BatchNorm has no gamma and beta"
    scaled = layer.module if layer.bn is None else layer.bn
    if any(t is not None and id(t) in shared for t in (scaled.weight, scaled.bias)):
        return "its weights are those of another layer too"
    return ""


def _clips_at_six(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0.0, 6.0)


def _outputs(layer: Layer) -> int:
    module = layer.module
    return int(module.out_features if isinstance(module, FusedLinear) else module.out_channels)  # type: ignore[arg-type]


def _inputs(layer: Layer) -> int:
    module = layer.module
    return int(module.in_features if isinstance(module, FusedLinear) else module.in_channels)  # type: ignore[arg-type]
