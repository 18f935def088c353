"""``posterior.summary()``: which layers are random, with counts."""

import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes.summary import LayerSummary


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.lstm(x)[0][:, -1])
        return output


LSTM, HEAD = 4 * 4 * (3 + 4) + 2 * 4 * 4, 4 * 2 + 2


def test_an_lstm_that_stays_deterministic_is_named() -> None:
    summary = hb.Gaussian(Recurrent(), random=["head.*"]).summary()
    assert summary.layers == (
        LayerSummary("lstm", "LSTM", LSTM, 0, 0),
        LayerSummary("head", "Linear", HEAD, HEAD, 0),
    )
    assert str(summary).splitlines() == [
        f"Gaussian: {HEAD} of {LSTM + HEAD} numbers are random (6.49 %)",
        "  layer  kind    numbers",
        "  lstm   LSTM        144  deterministic",
        "  head   Linear       10  random",
        "the same in every weight sample: lstm (LSTM); random=['*'] draws all",
    ]


def test_by_default_the_lstm_is_random_too() -> None:
    summary = hb.Gaussian(Recurrent()).summary()
    assert summary.random == summary.numbers == LSTM + HEAD
    assert "the same" not in str(summary)


def test_partly_random_frozen_and_tied() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    network[2].weight = network[0].weight
    network[1].requires_grad_(False)
    layers = hb.Gaussian(network, random=["0.weight"]).summary().layers
    assert [(each.layer, each.numbers, each.state) for each in layers] == [
        ("0", 6, "partly random"),
        ("1", 4, "frozen"),
        ("2", 2, "deterministic"),
    ]


def test_members_and_dropout() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.2), nn.Linear(3, 1))
    assert "4 members, each with numbers of its own" in str(
        hb.Ensemble(network, samples=4).summary()
    )
    text = str(hb.Dropout(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.2))).summary())
    assert "0 of 9 numbers are random" in text
    assert "random are the masks of 1 dropout layers" in text
