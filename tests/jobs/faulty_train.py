"""``hpc-bnn`` that misbehaves: ``faulty_train.py FAULT WORDS...``, FAULT one of

stuck    world rank 1 takes 6 s to read its first batch, and never comes to step 3
killed   the system kills the rank that writes when it has made step 44
slow     a validation takes a second for each batch
"""

import os
import signal
import sys
import time
from typing import Any

from hpc_bnn.bayes import Gaussian
from hpc_bnn.cli import program as cli
from hpc_bnn.data import Batches
from hpc_bnn.train.run.log import Metrics
from hpc_bnn.train.step.step import Step

READING_S, STUCK_AT, LAST = 6.0, 3, 44


def be_stuck() -> None:
    read, step = Batches.at, Step.__call__

    def slow(self: Batches, asked: int) -> Any:
        if asked == 0:
            time.sleep(READING_S)
        return read(self, asked)

    def sleeping(self: Step, *batch: Any) -> Any:
        if self.step == STUCK_AT:
            time.sleep(600)
        return step(self, *batch)

    Batches.at, Step.__call__ = slow, sleeping  # type: ignore[method-assign]


def be_killed() -> None:
    write = Metrics.write

    def last(self: Metrics, row: Any) -> None:
        write(self, row)
        if row["step"] == LAST:
            os.kill(os.getpid(), signal.SIGKILL)

    Metrics.write = last  # type: ignore[method-assign]


def be_slow() -> None:
    predict = Gaussian.predict

    def slow(self: Gaussian, *words: Any, **more: Any) -> Any:
        print("validating", flush=True)
        time.sleep(1.0)
        return predict(self, *words, **more)

    Gaussian.predict = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    fault, *words = sys.argv[1:]
    if fault == "stuck" and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
        be_stuck()
    elif fault == "killed":
        be_killed()
    elif fault == "slow":
        be_slow()
    sys.exit(cli.main(words))
