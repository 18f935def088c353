"""Every key of a settings file as a shell completes it: "train.lr=", "grid.mode=sample".

Describing the options of what a section chooses imports all of it, torch too. So the words are kept
in the user's cache, as long as no file of the package is newer.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hpc_bnn

PACKAGE = Path(hpc_bnn.__file__).resolve().parent


def keys(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return a word for each key, and for each value where there are only some."""
    home = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = hashlib.sha256(str(PACKAGE).encode()).hexdigest()[:12]
    path = Path(home) / "hpc_bnn" / f"keys-{place}.txt"
    newest = max(file.stat().st_mtime for file in PACKAGE.rglob("*.py"))
    with contextlib.suppress(OSError):
        if path.stat().st_mtime > newest:
            return path.read_text(encoding="utf-8").split()
    words = list(dict.fromkeys(_words()))
    with contextlib.suppress(OSError):  # a home that cannot be written: again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text("\n".join(words), encoding="utf-8")
        partial.replace(path)
    return words


def values(schema: Mapping[str, Any]) -> list[str]:
    """Return the values of a JSON schema, none where it has too many to list."""
    if "anyOf" in schema:
        return [value for each in schema["anyOf"] for value in values(each)]
    if "enum" in schema:
        return [str(value) for value in schema["enum"]]
    if "const" in schema:
        return [str(schema["const"])]
    return ["true", "false"] if schema.get("type") == "boolean" else []


def _words() -> Iterator[str]:
    from hpc_bnn.cli.settings_command import choices, class_of
    from hpc_bnn.config import Settings
    from hpc_bnn.config.describe import option_keys, own_key, own_keys

    tables = choices()
    found = [("seed", own_key(Settings, "seed"))]
    for section in (name for name in Settings.model_fields if name != "seed"):
        found += [(f"{section}.{key.name}", key) for key in own_keys(class_of(section))]
    for section, (table, given) in tables.items():
        yield from (f"{section}.name={name}" for name in table)
        for function in table.values():
            found += [(f"{section}.{k.name}", k) for k in option_keys(function, given=given)]
    for name, key in found:
        yield from (f"{name}={value}" for value in values(key.schema))
        yield f"{name}="
