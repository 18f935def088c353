"""Several commands of hpc-bnn in one job, as ``launch.run_commands`` starts it: ``commands.py
FOLDER``, where FOLDER/commands.json lists their words. One may begin with ``fault FAULT RANKS``, as
``failing_rank`` understands them.

What rank R says in command N goes to FOLDER/N.R.out and N.R.err, its status to N.R.status.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from failing_rank import provoked
from mpi4py import MPI

from hpc_bnn.cli.program import main


def run(words: list[str], said: Path) -> int:
    """Run one command as if it had this process for itself."""
    for stream, suffix in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        with said.with_suffix(said.suffix + suffix).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    fault, words = (words[1:3], words[3:]) if words[0] == "fault" else (None, words)
    with provoked(*fault) if fault else contextlib.nullcontext():
        status = main(words)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if sys.modules.get("horovod.torch"):
        sys.modules["horovod.torch"].shutdown()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    said.with_suffix(f"{said.suffix}.status").write_text(str(status), encoding="utf-8")
    return status


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    commands = json.loads((folder / "commands.json").read_text(encoding="utf-8"))
    rank = MPI.COMM_WORLD.rank
    sys.exit(max(run(words, folder / f"{i}.{rank}") for i, words in enumerate(commands)))
