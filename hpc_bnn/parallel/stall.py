"""Ends a job in which a rank is stuck: one rank says which, and all end with their own status."""

import logging
from typing import Any

from hpc_bnn.parallel.note import STALLED, leave_note
from hpc_bnn.parallel.roll_call import RollCall, State
from hpc_bnn.parallel.watchdog import Watchdog

log = logging.getLogger(__name__)


def watch(mpi: Any, comm: Any, hosts: list[str], limit_s: float) -> Watchdog:
    """Collective over ``comm``: return what watches this rank's exchanges; one that takes longer
    than ``limit_s`` ends the job.

    Parameters
    ----------
    mpi
        The module ``mpi4py.MPI``.
    hosts
        Host of each rank.
    """

    def end(text: str) -> None:
        log.error(
            "%s; ending all ranks with status %d. Raise train.stall_timeout if it was only slow",
            text,
            STALLED,
        )
        leave_note(STALLED)
        comm.Abort(STALLED)

    if mpi.Query_thread() < mpi.THREAD_MULTIPLE:  # then only the main thread may send
        who = f"rank {comm.Get_rank()} of {comm.Get_size()}"
        return Watchdog(limit_s, lambda waited: end(f"{who} has waited {waited:.0f} s for others"))
    call = RollCall(
        mpi,
        comm.Dup(),
        hosts,
        state=lambda: State(watchdog.count, watchdog.state()[1]),
        speak=end,
    )
    watchdog = Watchdog(limit_s, lambda waited: call.ask(watchdog.name, waited), also=call.turn)
    return watchdog
