"""What is printed and which status a job has, from what its ranks say at their end."""

import pytest

from hpc_bnn.parallel.control import MOST_MESSAGES, Word, verdict


def word(text: str, status: int = 2, **more: bool) -> Word:
    return Word("hpc-bnn train", text, status, **more)


ECHO = word("reading: rank 1 failed: OSError: gone", is_echo=True)
LEAVES = word("", 85, is_failure=False)


@pytest.mark.parametrize(
    ("words", "messages", "status"),
    [
        ({0: word("no"), 1: word("no")}, ["hpc-bnn train: no"], 2),
        ({0: ECHO, 1: word("gone")}, ["hpc-bnn train: gone"], 2),
        ({0: ECHO, 1: ECHO}, [f"hpc-bnn train: {ECHO.text}"], 2),
        ({1: word("gone")}, ["hpc-bnn train: rank 1: gone"], 2),
        (
            {0: word("a"), 1: word("b")},
            ["hpc-bnn train: rank 0: a", "hpc-bnn train: rank 1: b"],
            2,
        ),
        ({0: ECHO, 1: word("Traceback", 1)}, ["hpc-bnn train: Traceback"], 1),
        (
            {0: word("no"), 1: word("Traceback", 1)},
            ["hpc-bnn train: rank 0: no", "hpc-bnn train: rank 1: Traceback"],
            1,
        ),
        ({0: LEAVES, 1: LEAVES}, [], 85),
        ({1: LEAVES}, [], 85),
        ({0: LEAVES, 1: word("full")}, ["hpc-bnn train: full"], 2),
    ],
)
def test_each_cause_once(words: dict[int, Word], messages: list[str], status: int) -> None:
    assert verdict(words, 2) == (messages, status)


def test_many_different_messages_are_cut_off() -> None:
    words = {rank: word(f"rank {rank} is broken") for rank in range(1000)}
    messages, status = verdict(words, 1000)
    assert len(messages) == MOST_MESSAGES + 1
    assert messages[0] == "hpc-bnn train: rank 0: rank 0 is broken"
    assert messages[-1] == f"and {1000 - MOST_MESSAGES} more messages of other ranks"
    assert status == 2
