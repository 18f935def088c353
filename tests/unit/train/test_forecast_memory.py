"""What ``--estimate`` says of forecasts: no more memory for more members and lead times, and what
size the file has.
"""

from dataclasses import replace
from pathlib import Path

from toy_weather import ALONE_WORLD, toy_source, toy_trained, write_small_toy

from hpc_bnn.fields import times
from hpc_bnn.train.plan.forecast_memory import forecast_line, forecast_memory
from hpc_bnn.train.run.build import build
from hpc_bnn.train.score.dealt_starts import AT_ONCE, AT_ONCE_BYTES, most_at_once
from hpc_bnn.train.score.forecast import forecast, plan_forecast


def test_the_file_is_as_large_and_memory_does_not_grow(tmp_path: Path) -> None:
    folder = write_small_toy(tmp_path / "toy")
    source = toy_source(folder)
    trained = toy_trained(folder, source)
    fields = source.fields
    assert fields is not None
    found = forecast_memory(build(trained.settings, source), trained.settings, fields)
    assert (found.members, found.steps, found.at_once) == (3, 3, AT_ONCE)
    start = times.parse("2001-03-05", end=False)
    plan = plan_forecast(trained, [start], steps=3, members=3)
    forecast(trained, ALONE_WORLD, tmp_path / "f.nc", plan)
    beside = plan.geometry.begin + 4 * 3  # the header, and the number of each member
    assert (tmp_path / "f.nc").stat().st_size == found.file + beside
    more = trained.settings.posterior.model_copy(update={"predict_samples": 60})
    settings = trained.settings.model_copy(update={"posterior": more})
    larger = forecast_memory(build(settings, source), settings, fields)
    assert found.kept > 0
    expected = replace(found, members=60, file=20 * found.file, kept=20 * found.kept)
    assert larger == expected
    changed = {"redraw": "each_step"}
    settings = trained.settings.model_copy(
        update={"forecast": trained.settings.forecast.model_copy(update=changed)}
    )
    anew = forecast_memory(build(settings, source), settings, fields)
    assert anew == replace(found, kept=3 * found.kept)
    assert "a file of 60 members x 3 steps: " in forecast_line(larger, held=0)


def test_large_states_go_through_one_by_one() -> None:
    sizes = [1, AT_ONCE_BYTES // AT_ONCE, AT_ONCE_BYTES // 2, AT_ONCE_BYTES, 10 * AT_ONCE_BYTES]
    assert [most_at_once(size) for size in sizes] == [AT_ONCE, AT_ONCE, 2, 1, 1]
