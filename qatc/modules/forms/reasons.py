"""Why a call that stays a function stays in float, for the report."""

from collections.abc import Mapping

from torch import fx

from qatc.calls import call_name

_REASONS: Mapping[str, tuple[str, ...]] = {
    "makes a tensor, reads none": (
        "arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros",
    ),
    "orders or chooses values, which no target does in integers": (
        "argsort", "cummax", "cummin", "kthvalue", "max", "median", "min", "mode", "sort", "topk",
    ),
    "a statistic that needs more than 8 bits": (
        "cumprod", "cumsum", "logsumexp", "norm", "prod", "std", "std_mean", "var", "var_mean", "vector_norm",
    ),
    "reads or writes at places that the network computes, which no target does in integers": (
        "getitem", "grid_sample", "index_add", "index_copy", "index_fill", "index_put", "masked_scatter", "scatter",
        "scatter_add",
    ),
    "masks values, which no target does in integers": ("masked_fill", "tril", "triu", "where"),
}  # fmt: skip
_BY_NAME = {name: reason for reason, names in _REASONS.items() for name in names}


def why_float(node: fx.Node) -> str:
    """Return the reason for a call of a function or method."""
    return _BY_NAME.get(call_name(node), "not an op that qatc knows")
