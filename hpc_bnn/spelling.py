"""What somebody may have meant who wrote a name that there is not."""

import difflib
from collections.abc import Collection


def nearest(key: str, known: Collection[str]) -> str:
    """Return advice for a key that is unknown, empty where nothing is near."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""
