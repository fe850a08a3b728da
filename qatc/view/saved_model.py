"""What a page shows of a saved model: its graph, the passes that lower it, and its weights on their grids."""

import copy

from qatc.config import config_name
from qatc.errors import QatcError
from qatc.inspection import graph_data
from qatc.lowering.lower_modules import lowering_pipeline
from qatc.lowering.options import DEFAULT
from qatc.pipeline import PassEvent
from qatc.prepared import PreparedModel
from qatc.view.dump import Dump, Step, in_order
from qatc.view.weights import weights_on_grids


def read_model(model: PreparedModel) -> Dump:
    """Return the model's graph and, where it can be lowered, that after each lowering pass; the model stays as it is.

    Where it can't be (a range is missing, a weight is not finite), a note says why.
    """
    gm = copy.deepcopy(model).eval().cpu()
    steps: list[Step] = []
    notes: list[str] = []

    def keep(event: PassEvent) -> None:
        nodes = in_order(graph_data(event.gm)["nodes"]) if event.changed else None
        steps.append(Step(event.index, event.name, event.options, event.seconds, nodes))

    made_for = model.prepared_for
    measured = dict(weights_on_grids(gm))
    if made_for is None:
        keep(PassEvent(0, "saved", gm, True, 0.0))
        return Dump(type(model).__name__, tuple(steps), measured=measured)
    pipeline = lowering_pipeline(DEFAULT.narrowed(made_for.target))
    pipeline.begin(gm, (keep,), "saved")
    try:
        pipeline.run(gm, (keep,))
    except QatcError as error:
        notes.append(f"the lowering passes after these are not shown: {error.what}; try: {error.remedy}")
    config = config_name(made_for.config)
    return Dump(type(model).__name__, tuple(steps), "", made_for.target.name, config, tuple(notes), measured)
