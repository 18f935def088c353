"""Which variables have values of both signs, by their names in files."""

import pytest

from hpc_bnn.fields.names import is_signed


@pytest.mark.parametrize(
    ("name", "signed"),
    [
        ("u10", True),
        ("V", True),
        ("vertical_velocity", True),
        ("vorticity", True),
        ("divergence", True),
        ("t2m", False),
        ("z", False),
        ("q", False),
        ("lsm", False),
        ("sshf", None),
        ("own_anomaly", None),
    ],
)
def test_signed_variables(name: str, signed: bool | None) -> None:
    assert is_signed(name) is signed
