"""The memory of an evaluation of forecasts of fields: the estimate against tensors that live."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_weather import ALONE_WORLD, toy_settings, toy_source, toy_trained

from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.train.plan.evaluation_memory import EvaluationMemory, evaluation_memory
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.score import bands
from hpc_bnn.train.score.weather import score_weather

ROWS, COLUMNS, CHANNELS = 32, 64, 4
STATE = 8 * CHANNELS * ROWS * COLUMNS  # float64 bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bulk")
    write_toy(made, years=1, rows=ROWS, columns=COLUMNS, step_hours=12, levels=[500.0])
    return made


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return toy_source(folder)


def both(folder: Path, source: Source, **changes: Any) -> tuple[int, EvaluationMemory]:
    """Return the most bytes of tensors in an evaluation, and the estimate."""
    found = evaluation_memory(
        Settings.model_validate(toy_settings(folder, **changes)), source, ranks=1
    )
    assert found is not None
    trained = toy_trained(folder, source, **changes)
    with LiveMemory(trained.parts.posterior.parameters()) as live:
        score_weather(trained, ALONE_WORLD)
    return live.peak, found


@pytest.mark.parametrize(("members", "batch"), [(24, 1), (24, 4), (3, 1), (8, 8)])
def test_it_is_what_an_evaluation_takes(
    folder: Path, source: Source, members: int, batch: int
) -> None:
    peak, found = both(
        folder,
        source,
        posterior={"predict_samples": members},
        train={"batch_size": batch},
        evaluation={"starts": batch, "steps": 2},
    )
    assert peak == pytest.approx(found.cpu, rel=0.15)
    assert found.members == batch * (members + 2) * STATE


def test_it_does_not_grow_with_starts_and_little_with_bands(
    folder: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"posterior": {"predict_samples": 24}, "train": {"batch_size": 1}}
    few, _ = both(folder, source, **changes, evaluation={"starts": 1, "steps": 1})
    many, found = both(folder, source, **changes, evaluation={"starts": 4, "steps": 1})
    assert many < few + 64 * 1024 + 0.02 * few
    monkeypatch.setattr(bands, "BAND_BYTES", 1 << 16)
    small, narrow = both(folder, source, **changes, evaluation={"starts": 1, "steps": 1})
    assert small < many and narrow.band < 0.3 * found.band
    # All members once, and no more than a few states beside them and the climatology.
    assert small < 24 * STATE + narrow.climatology + 10 * STATE + narrow.forecast


def test_small_states_lose_some_of_the_heap_and_large_ones_do_not(
    folder: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"posterior": {"predict_samples": 24}, "train": {"batch_size": 1}}
    settings = Settings.model_validate(toy_settings(folder, **changes))
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr("hpc_bnn.train.plan.estimate._loses", lambda _: True)
    found = evaluation_memory(settings, source, ranks=1)
    assert found is not None
    assert found.lost == (found.members + found.device) // 3
    monkeypatch.setattr("hpc_bnn.train.plan.evaluation_memory.MOST_ON_HEAP", 1)
    large = evaluation_memory(settings, source, ranks=1)
    assert large is not None and large.lost == found.device // 3 and large.cpu == found.cpu


def test_other_data_are_scored_as_in_a_validation(folder: Path, source: Source) -> None:
    settings = Settings.model_validate(toy_settings(folder))
    assert evaluation_memory(settings, replace(source, fields=None), ranks=1) is None
