"""``train --estimate`` and ``data request`` as commands."""

from pathlib import Path

import pytest
from tiny_run import SERIES, hpc_bnn, written

from hpc_bnn.train.plan.estimate import GIB, verdict_by_themselves

WEATHER = (
    "swin_era5.yaml",
    "model={name: swin, width: 8, depths: [2, 0, 0, 0], heads: [1, 1, 1, 1], window: [2, 4]}",
    "data.variables=[t2m]",
    "data.levels=[]",
    "loss={name: almost_fair_crps}",
)


def test_an_estimate_writes_nothing_and_tells_that_it_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "--estimate", "train.device=cpu") == 0
    out = capsys.readouterr().out
    assert out.startswith("one rank of 1 x 1: ")
    assert "fits: " in out
    assert "time, measured here (" in out
    assert "  an epoch of 12 steps " in out and "  the run of 6 steps " in out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_an_estimate_for_files_and_gpus_that_are_not_here(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("--estimate", "--points", "16x32", "--ranks", "8", "--ranks-per-node", "4")
    assert hpc_bnn("train", *WEATHER, *asked, "--device-memory", "1") == 0
    out = capsys.readouterr().out
    assert out.startswith("one rank of 4 x 2: 4 of 16 samples, 1 a pass; 16 of 32 examples; bf16")
    assert "on the GPU" in out
    assert "time: not measured, as the run would not go on this device" in out
    assert hpc_bnn("train", *WEATHER, *asked, "--device-memory", "0.001") == 1
    assert "does not fit" in capsys.readouterr().out


def test_what_does_not_fit_beside_the_training_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--estimate", "--points", "361x720", "--ranks", 1, "train.device=cpu")
    few = ("train.batch_size=1", "posterior.samples=2", "posterior.predict_samples=2000")
    monkeypatch.setattr("hpc_bnn.cli.estimate_command.host_bytes", lambda: 1 << 40)
    assert hpc_bnn("train", *WEATHER, *asked, *few) == 0
    assert "does not fit" not in capsys.readouterr().out
    monkeypatch.setattr("hpc_bnn.cli.estimate_command.host_bytes", lambda: 2 << 30)
    assert hpc_bnn("train", *WEATHER, *asked, *few) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("fits: ")], "the training"
    (line,) = [line for line in lines if "does not fit" in line]
    assert line.startswith("hpc-bnn evaluate does not fit: ")
    assert line.endswith(
        "% of the 2.0 GiB there are for a rank; lower posterior.predict_samples, or start fewer "
        "ranks on a node"
    )


def test_forecasts_that_do_not_fit_a_gpu_are_named() -> None:
    needs = {"evaluate": GIB, "forecast": 3 * GIB}
    (line,) = verdict_by_themselves(needs, gpu=True, capacity=2 * GIB)
    assert line == (
        "hpc-bnn forecast does not fit: 150% of the 2.0 GiB there are for a rank; use a device "
        "with more memory"
    )
    assert verdict_by_themselves(needs, gpu=True, capacity=0) == []


def test_an_estimate_of_a_grid_that_is_chosen_later_is_that_of_the_largest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("--estimate", "--points", "16x32", "--ranks", "4", "--device-memory", "1")
    needs = {}
    for sample_ranks in (1, 2, 4):
        assert hpc_bnn("train", *WEATHER, *asked, f"grid.sample_ranks={sample_ranks}") == 0
        needs[sample_ranks] = capsys.readouterr().out.splitlines()
    assert hpc_bnn("train", *WEATHER, *asked, "grid.mode=auto") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == ("grid.mode = auto may choose 1 x 4, 2 x 2, 4 x 1; of these, what needs most:")
    assert lines == needs[4], "all of the batch"
    assert len({tuple(each) for each in needs.values()}) == 3


def test_an_estimate_of_samples_that_fit_one_of_the_grids(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ("--estimate", "--points", "16x32", "--ranks", "8", "--ranks-per-node", "8")
    assert hpc_bnn("train", *WEATHER, *asked, "posterior.samples=3", "grid.mode=auto") == 0
    assert "one rank of 1 x 8: 3 of 3 samples" in capsys.readouterr().out
    assert hpc_bnn("train", *WEATHER, *asked, "posterior.samples=3") == 2
    assert "posterior.samples = 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mlp_series.yaml", "--points", "8x16"],
            "--points: data.name = 'synthetic_series' has no",
        ),
        ([*WEATHER, "--points", "16x32", "--ranks", "3"], "posterior.samples = 16: must be a"),
        ([*WEATHER, "data.variables=[tp]", "--points", "16x32"], "'tp' is a sum"),
    ],
)
def test_estimates_that_cannot_be_made(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mode = ["grid.mode=sample"] if "--ranks" in arguments else []
    assert hpc_bnn("train", *arguments, *mode, "--estimate") == 2
    assert message in capsys.readouterr().err


def test_a_request_is_printed_or_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn("data", "request", "swin_era5_5.625.yaml", "--degrees", "5.625") == 0
    printed = capsys.readouterr().out
    compile(printed, "request.py", "exec")
    assert "'grid'" in printed.replace('"', "'")
    path = tmp_path / "get.py"
    assert hpc_bnn("data", "request", "swin_era5.yaml", "--degrees", "1.5", "-o", path) == 0
    assert "python get.py" in path.read_text()
    assert hpc_bnn("data", "request", "mlp_series.yaml", "--degrees", "1.5") == 2
    assert "only era5 is downloaded" in capsys.readouterr().err


def test_states_that_form_no_window_are_not_requested(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("data", "request", "swin_era5.yaml", "data.step_hours=3", "--degrees", "1.5")
    assert hpc_bnn(*asked) == 0
    assert "every 3 h," in capsys.readouterr().out
    assert hpc_bnn(*asked, "--every", "6") == 2
    told = capsys.readouterr().err
    assert "swin_era5.yaml with the command line: --every 6, data.step_hours = 3: " in told
    assert "expected 1, 3" in told and "leave --every out" in told
