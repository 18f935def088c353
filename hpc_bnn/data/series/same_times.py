"""Require that new rows follow each other, and tell the time, as those of the training did."""

from datetime import timedelta

from hpc_bnn.data.source import WindowLayout


def require_same_times(name: str, given: WindowLayout, trained: WindowLayout) -> None:
    """Refuse a file, called ``name`` in the error, whose rows a trained run would misread.

    Raises
    ------
    ValueError
        If its step is another, or its times are instants and those of the training were not, or
        the other way round: the hours of its calendar would be others.
    """
    if trained.step_s is not None and given.step_s != trained.step_s:
        found, expected = (timedelta(seconds=each.step_s or 0.0) for each in (given, trained))
        raise ValueError(
            f"{name}: a row every {found}: expected one every {expected}, as in the training of "
            "this run; resample the file, or train on rows like these"
        )
    if trained.instants is not None and given.instants != trained.instants:
        kinds = ("neither offset nor zone", "an offset or a zone")
        raise ValueError(
            f"{name}: its times have {kinds[bool(given.instants)]}, those that the run was trained "
            f"on had {kinds[bool(trained.instants)]}: expected the same, since the hours of the "
            "day would be others; write the times as in the training"
        )
