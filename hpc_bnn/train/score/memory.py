"""``memory.json``: what the memory of a training was estimated to be, for a reader of its peak."""

import json
import logging

from hpc_bnn.files import write_json
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.trained import Trained

log = logging.getLogger(__name__)


def write_estimate(trained: Trained, folder: RunFolder, *, gpu: bool) -> None:
    """Write what ``train --estimate`` says of a rank of the grid that trained: the bytes on its
    device. Nothing where the run has not ended or the network cannot be traced.

    For one rank, before anything is scored: what that leaves in memory would count.
    """
    try:
        grid = json.loads(folder.summary.read_text(encoding="utf-8"))["grid"]
        of = Grid(int(grid["sample_ranks"]), int(grid["data_ranks"]), 0)
        found = estimate(trained.settings, trained.parts.source, of)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        log.info("no estimate of the memory beside the scores (%s)", " ".join(str(error).split()))
        return
    # The process holds the network already, and the estimate counts it again.
    size = found.gpu_bytes if gpu else found.cpu_bytes - found.parameters
    content = {"bytes": size, "sample_ranks": of.sample_ranks, "data_ranks": of.data_ranks}
    write_json(folder.memory, content)
