"""Prepare the next items in one background thread while the present one is used.

One thread, because the netCDF library allows one reader at a time; decoding releases the lock of
the interpreter, so it runs beside the training step.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterate over `items` with up to `depth` of them prepared ahead, in their order.

    The items are computed in the thread, so iterating `items` must not need the main thread. An
    exception there is raised here, at the item it belongs to. The thread ends with the items, at
    `close()`, at the end of a `with` block, and with the process.

        with Prefetch(batches.at(step) for step in steps) as ahead:
            for x, y in ahead: ...

    Raises
    ------
    ValueError
        If depth is less than 1.
    """

    def __init__(self, items: Iterable[T], *, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"depth = {depth}: expected at least 1 item prepared ahead")
        self._ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._over = False
        self._thread = threading.Thread(
            target=_work, args=(items, self._ready, self._stop), name="prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        item, error, last = self._ready.get()
        if not last:
            return item  # type: ignore[return-value]  # None is an item too, if T allows it
        self.close()
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the thread; waits for the item it is working on."""
        self._over = True
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _work(
    items: Iterable[T],
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]],
    stop: threading.Event,
) -> None:
    """Run in the thread; holds no reference to the `Prefetch`, which can so be forgotten."""
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(ready, (item, None, False), stop):
                return
    except BaseException as problem:  # handed over, whatever it is
        error = problem
    _put(ready, (None, error, True), stop)


def _put(
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]],
    entry: tuple[T | None, BaseException | None, bool],
    stop: threading.Event,
) -> bool:
    """Put an entry as soon as there is room; give up when told to stop."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False
