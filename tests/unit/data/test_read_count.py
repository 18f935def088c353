"""Bytes asked of files: those of one thread are not those of another."""

import threading

from hpc_bnn.data.read_count import bytes_read, count_read


def test_each_thread_counts_its_own() -> None:
    found: list[int] = []

    def read() -> None:
        before = bytes_read()
        count_read(5)
        count_read(7)
        found.extend([before, bytes_read()])

    here = bytes_read()
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found == [0, 12]
    assert bytes_read() == here
    count_read(3)
    assert bytes_read() == here + 3
