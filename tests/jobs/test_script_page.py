"""The blocks of the guide's page on scripts that use torch's parts, run as printed."""

import re
from pathlib import Path

import pytest
from launch import Job

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

PAGE = Path(__file__).parents[2] / "hpc_bnn" / "guide" / "script.md"
BEGIN = """
import torch
from torch.utils.data import TensorDataset

import hpc_bnn as hb
from hpc_bnn.data import data_set

torch.manual_seed(0)
digits = data_set("digits")()
validation = digits.validation
train_set = TensorDataset(digits.train.x[:256], digits.train.y[:256])
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
world = hb.start(sample_ranks="auto")
posterior = hb.Gaussian(network, prior_sigma=1.0)
optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-2)
step = hb.Step(posterior, hb.losses.categorical_nll(), optimizer, world,
               samples=4, num_examples=len(train_set), kl_weight=0.01, guard_every=1)
loader = hb.Batches(train_set, batch_size=64, world=world)
"""
END = """
if world.is_first:
    print(step.step, f"{float(loss):.6g}", *(["best", best] if "best" in vars() else []))
"""


def block(word: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (one,) = (b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if word in b)
    return one


@pytest.mark.parametrize("word", ["ReduceLROnPlateau", "DistributedSampler"])
def test_it_gives_the_same_on_one_rank_and_on_two(word: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BEGIN + block(word).replace("range(50)", "range(6)") + END, encoding="utf-8")
    said = []
    for ranks in (0, 2):
        ended = Job(script, ranks=ranks, cwd=tmp_path).wait()
        assert ended.status == 0, ended.text
        said.append(ended.out.split())
    assert said[0][0] == said[1][0] != "0"
    assert float(said[1][1]) == pytest.approx(float(said[0][1]), rel=1e-4)
    if word == "ReduceLROnPlateau":
        assert float(said[1][3]) == pytest.approx(float(said[0][3]), rel=1e-4)
        assert float(said[0][3]) < 1.5  # nats; ln 10 = 2.3 at first
