"""``hpc-bnn``, but the first rank that has written so many states kills itself (SIGKILL):

mpirun -n 2 python -m mpi4py killed_forecast.py WRITES forecast RUN ...
"""

import os
import signal
import sys
from typing import Any

from hpc_bnn.cli.program import main
from hpc_bnn.fields.forecast_file import ForecastFile

_write, _left = ForecastFile.write, [int(sys.argv[1])]


def write(*arguments: Any, **options: Any) -> None:
    _write(*arguments, **options)
    _left[0] -= 1
    if _left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    ForecastFile.write = write  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
