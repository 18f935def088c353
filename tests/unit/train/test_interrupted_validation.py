"""A validation that a stop breaks off begins anew in the next start: one that fits no job is told
of, as a job that is requeued would spend all of its starts on it.
"""

import logging
from pathlib import Path
from typing import Any

import pytest

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.run.stop import Interrupted, Stop, Unfinished

SETTINGS = Settings.model_validate(
    {
        "posterior": {"samples": 2, "predict_samples": 2},
        "model": {"name": "mlp", "hidden": [8]},
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
        "train": {"device": "cpu", "steps": 4, "batch_size": 16, "validate_every": 2},
    }
)
SAID = "this start made no step: the validation after step 2 did not end within its"


def run(folder: Path, *, resume: bool) -> dict[str, Any]:
    world = start(ALONE, device="cpu")
    try:
        return train(SETTINGS, world, RunFolder(folder), resume=resume)
    finally:
        world.stop()


def test_a_start_that_made_no_step_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop_is_due(stop: Stop) -> None:
        raise Interrupted("signal SIGUSR2")

    caplog.set_level(logging.WARNING, "hpc_bnn")
    with monkeypatch.context() as patched:
        patched.setattr(Stop, "check", stop_is_due)
        with pytest.raises(Unfinished, match="after step 2 of 4"):
            run(tmp_path, resume=False)
        assert SAID not in caplog.text, "it made two steps"
        with pytest.raises(Unfinished, match="after step 2 of 4"):
            run(tmp_path, resume=True)
    assert caplog.text.count(SAID) == 1
    assert "raise train.validate_every" in caplog.text
    assert run(tmp_path, resume=True)["steps"] == 4
    assert caplog.text.count(SAID) == 1
