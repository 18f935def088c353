"""The status of a command that must be run again, for job scripts: a file that outlives all ranks.

srun reports the status of the first rank that ends, or of one that it killed for that, so a job
script cannot rely on it. It names a file instead, and rank by rank the status goes in there before
anything ends.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

STALLED = 86  # exit status: a rank was stuck; run the same command again
VARIABLE = "HPC_BNN_NOTE"


def leave_note(status: int, environment: Mapping[str, str] = os.environ) -> None:
    """Write ``status`` into the file that the job script has named, if it has."""
    name = environment.get(VARIABLE)
    if name:
        with contextlib.suppress(OSError):  # then the script sees the status of srun
            Path(name).write_text(f"{status}\n", encoding="utf-8")
