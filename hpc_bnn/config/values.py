"""Values of settings in the notations of YAML and Slurm, as what they mean."""

import math
import re
from itertools import pairwise

from pydantic import BeforeValidator


def _seconds(value: object) -> object:
    """Return the seconds of a time as Slurm writes it, [[days-]hours:]minutes:seconds."""
    if not isinstance(value, str):
        return value  # also 23:50:00, which YAML itself reads as a number of seconds
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", value.strip())
    if match is None:
        raise ValueError("expected seconds, or a time such as 23:50:00 or 1-23:50:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _switch(value: object) -> object:
    """Return on or off for what YAML reads as a truth value."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _rollout(value: object) -> object:
    """Return steps by first epoch, with epochs as numbers, which JSON and key=value make texts."""
    if isinstance(value, dict):
        epochs = [int(e) if isinstance(e, str) and e.isdecimal() else e for e in value]
        whole = all(type(number) is int for number in (*epochs, *value.values()))
        rises = whole and epochs[:1] == [0] and all(a < b for a, b in pairwise(epochs))
        if rises and min(value.values()) >= 1:
            return dict(zip(epochs, value.values(), strict=True))
    raise ValueError(
        "expected steps by first epoch, epochs that increase from 0 and at least 1 step, such as "
        "{0: 1, 10: 4}"
    )


def _scale(value: object) -> object:
    """Return a number, or numbers by name."""
    numbers = list(value.values()) if isinstance(value, dict) else [value]
    if numbers and all(
        isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < math.inf
        for number in numbers
    ):
        return value
    raise ValueError(
        "expected a number of at least 0, or such numbers by channel, such as {t2m: 0.1}"
    )


Seconds = BeforeValidator(_seconds)
Rollout = BeforeValidator(_rollout)
Switch = BeforeValidator(_switch)
Scale = BeforeValidator(_scale)
