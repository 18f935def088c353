"""U-Cast's recipe by the command line: one forecast with the absolute error, then its dropout as an
ensemble.
"""

from pathlib import Path

import pytest
import torch
from tiny_run import hpc_bnn, read_json
from toy_weather import write_small_toy

import hpc_bnn as hb
from hpc_bnn.config import CONFIGS, load_settings
from hpc_bnn.train.run.build import check_choices

CONFIG = CONFIGS / "swin_dropout_crps.yaml"
FIRST = ["loss.name=mae", "posterior.samples=1", "grid.mode=data", "train.lr=5.0e-4"]
SMALL = [
    *(
        "data.variables=[t2m, z]",
        "data.levels=[500]",
        "data.static=[lsm]",
        "loss.channel_weights={}",
    ),
    *("data.train=[2001-01-01, 2001-01-31]", "data.validation=[2001-02-01, 2001-02-05]"),
    *("data.test=[2001-03-01, 2001-03-12]", "data.step_hours=12", "evaluation.starts=2"),
    *("evaluation.steps=2", "model.width=8", "model.depths=[2, 0, 0, 0]", "model.window=[2, 2]"),
    *("posterior.samples=2", "posterior.predict_samples=3", "train.steps=3", "train.epochs=0"),
    *(
        "train.batch_size=4",
        "train.warmup_steps=0",
        "train.precision=float32",
        "model.heads=[2,2,2,2]",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("recipe")
    write_small_toy(made / "toy")
    small = [*SMALL, f"data.path={made / 'toy'}"]
    assert hpc_bnn("train", CONFIG, *small, *FIRST, "--run", made / "mean") == 0
    start = f"train.start_from={made / 'mean'}"
    assert hpc_bnn("train", CONFIG, *small, start, "--run", made / "ensemble") == 0
    return made


def load_trained_weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(hb.load(run).posterior.module.named_parameters())


def test_the_file_and_its_first_command_are_whole_settings() -> None:
    for overrides in ([], [*FIRST, "train.epochs=20"]):
        check_choices(load_settings(CONFIG, overrides), "here")


def test_the_second_training_starts_with_the_moving_average_of_the_first(folder: Path) -> None:
    path = folder / "still"
    small = [*SMALL, f"data.path={folder / 'toy'}", "train.lr=1.0e-300", "train.steps=1"]
    start = f"train.start_from={folder / 'mean'}"
    assert hpc_bnn("train", CONFIG, *small, start, "--run", path) == 0
    before = load_trained_weights(folder / "mean")
    after = load_trained_weights(path)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-6, atol=1e-7)


def test_the_ensemble_is_scored_with_masks_that_are_drawn_anew(folder: Path) -> None:
    assert hpc_bnn("evaluate", folder / "ensemble") == 0
    result = read_json(folder / "ensemble" / "evaluation.json")
    assert (result["redraw"], result["ema"], result["members"]) == ("each_step", 0.999, 3)
    assert all(value > 0 for value in result["scores"]["t2m"]["spread"])
    assert torch.tensor(result["scores"]["z500"]["crps"]).isfinite().all()
