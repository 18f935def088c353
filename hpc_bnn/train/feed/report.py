"""What a run says of its data in ``summary.json``."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from hpc_bnn.parallel.world import World
from hpc_bnn.train.feed.feed import Reads
from hpc_bnn.train.feed.sharing import Sharing


def data_report(
    world: World,
    sharing: Sharing,
    reads: Reads,
    *,
    batch_size: int,
    samples: int,
    times_s: Sequence[float],
    waits_s: Sequence[float],
) -> dict[str, Any]:
    """Collective over the world: return the entry ``data`` of the summary.

    ``bytes_read``: what the training batches took of files, over all ranks, in the chunks that they
    are stored in. ``read_amplification``: that by the bytes of the batches, each counted once for a
    data rank: 1 where every number is read once. Rates and ``wait_share`` are those of the slowest
    rank, the wait for data included. What no step of this process has measured is NaN.

    Parameters
    ----------
    times_s, waits_s
        What steps took on this rank, and how long it waited for their data.
    """
    ratio = reads.bytes / reads.all_batch_bytes if reads.all_batch_bytes else math.nan
    read = torch.tensor([reads.bytes, ratio], dtype=torch.float64)
    total, ratios = world.all_ranks.all_reduce(read, reduction="sum", name="data report").tolist()
    waited, count = sum(waits_s), len(times_s)
    took = sum(times_s) + waited
    own = [took / count, waited / took] if took and count else [math.nan, math.nan]
    mine = torch.tensor(own, dtype=torch.float64)
    mean, share = world.all_ranks.all_reduce(mine, reduction="max", name="data report").tolist()
    examples_per_s = batch_size / mean
    return {
        "share": sharing.mode,
        "share_test_s": sharing.tested_s,
        "bytes_read": int(total),
        "batch_bytes": reads.batch_bytes,
        "read_amplification": ratios / world.grid.data_ranks,
        "wait_share": share,
        "examples_per_s": examples_per_s,
        "samples_per_s": samples * examples_per_s,
    }
