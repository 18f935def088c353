"""Commands that must fail, and their messages."""

from collections.abc import Callable

import pytest
from tiny_run import hpc_bnn


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command which must fail, and returns its message."""

    def run(command: str, *arguments: object) -> str:
        capsys.readouterr()
        assert hpc_bnn(*command.split(), *arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert err.count(f"hpc-bnn {command}: ") == 1
        return err.partition(f"hpc-bnn {command}: ")[2].strip()

    return run
