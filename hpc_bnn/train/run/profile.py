"""``train.profile``: a trace of some steps of world rank 0, as ui.perfetto.dev reads it."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch.profiler import ProfilerActivity

from hpc_bnn.files import whole_file
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.durations import WARMUP_STEPS
from hpc_bnn.train.run.folder import RunFolder

log = logging.getLogger(__name__)


class Profile:
    """Traces ``steps`` steps of this process after its first ones, which allocate memory; no step
    where ``steps`` is 0, or on any rank but the first.
    """

    def __init__(self, world: World, folder: RunFolder, *, steps: int) -> None:
        self._folder, self._left, self._skip = folder, steps if world.is_first else 0, WARMUP_STEPS
        self._activities = {ProfilerActivity.CPU}
        if world.device.type == "cuda":
            self._activities.add(ProfilerActivity.CUDA)
        self._profiler: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Run a step in this block."""
        if self._left == 0:
            yield
            return
        self._skip -= 1
        if self._skip < 0 and self._profiler is None:
            self._profiler = torch.profiler.profile(activities=self._activities)
            self._profiler.start()
        yield
        if self._profiler is not None:
            self._left -= 1
            if self._left == 0:
                self.close()

    def close(self) -> None:
        """Write the trace of what was traced so far, unless that was done."""
        if self._profiler is None:
            return
        profiler, self._profiler, self._left = self._profiler, None, 0
        profiler.stop()
        self._folder.require_own()
        with whole_file(self._folder.trace) as file:
            profiler.export_chrome_trace(file.name)
        log.info("a trace of the steps: %s", self._folder.trace)
