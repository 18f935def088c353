"""What somebody may have meant who wrote a name that there is not."""

import difflib
from collections.abc import Collection


def nearest(key: str, known: Collection[str], *, prefix: str = "") -> str:
    """Return advice for a key that is unknown, empty where nothing is near.

    prefix: what the key begins with, and all that counts of the known ones: it makes none alike.
    """
    names = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
    matches = difflib.get_close_matches(key.removeprefix(prefix), names, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{matches[0]}?" if matches else ""
