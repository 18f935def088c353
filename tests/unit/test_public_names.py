"""The public names, which are imported when they are asked for."""

import hpc_bnn as hb


def test_public_names_are_listed_and_there() -> None:
    assert set(hb.__all__) <= set(dir(hb))
    assert all(getattr(hb, name) is not None for name in hb.__all__)
