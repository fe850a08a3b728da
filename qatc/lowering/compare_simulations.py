"""How far apart two simulations of one network are: of two placements, on the same data."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qatc.lowering.flatten_inputs import input_types
from qatc.lowering.options import DEFAULT, LoweringOptions
from qatc.lowering.verification import decibel
from qatc.lowering.verify import flat, known_inputs, simulate
from qatc.lowering.verify_data import Array, batches, checked_data
from qatc.prepared import PreparedModel


def simulated_sqnr(
    before: PreparedModel, after: PreparedModel, data: Mapping[str, Array], options: LoweringOptions = DEFAULT
) -> float:
    """Return, in dB, how near the outputs of the second are to those of the first, on an array per input.

    Raises `VerificationError` where names, shapes or types of the data do not fit the model.
    """
    options = replace(options, batch=None)
    first, second = flat(before, options), flat(after, options)
    types = input_types(first)
    error, power = 0.0, 0.0
    for feeds in batches(checked_data(types, data, known_inputs(before)), types):
        olds, news = (simulate(model, list(feeds.values()))[1] for model in (first, second))
        for old, new in zip(olds, news, strict=True):
            power += float(np.square(old, dtype=np.float64).sum())
            error += float(np.square(old.astype(np.float64) - new).sum())
    return decibel(power, error)
