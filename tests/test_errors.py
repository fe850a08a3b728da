import pickle

import pytest

from qatc.errors import (
    CalibrationError,
    CheckpointError,
    ConfigError,
    InvariantError,
    LoweringError,
    PassOrderError,
    QatcError,
    TraceError,
    VerificationError,
)

KINDS = (CalibrationError, CheckpointError, ConfigError, InvariantError, LoweringError, PassOrderError, TraceError,
         VerificationError)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_what_where_and_what_to_do(kind: type[QatcError]) -> None:
    error = kind("it broke", where="here", remedy="mend it")
    assert str(error) == "it broke\n  at: here\n  try: mend it"
    assert str(kind("it broke")) == "it broke"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_processes(kind: type[QatcError]) -> None:
    error = kind("it broke", where="here", remedy="mend it")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert str(twin) == str(error)
