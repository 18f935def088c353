"""Which weights are random, what is refused, and the fan-in that scales a prior."""

import pytest
from torch import Tensor, nn

from hpc_bnn.bayes.selection import fan_in, random_names


class Model(nn.Module):
    """A bit of everything: what is random by default has a name that starts with ``r_``."""

    def __init__(self) -> None:
        super().__init__()
        self.r_linear = nn.Linear(4, 3)
        self.r_bilinear = nn.Bilinear(4, 5, 6)
        self.r_conv = nn.Conv2d(4, 8, (3, 5), groups=2)
        self.r_up = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
        self.r_attention = nn.MultiheadAttention(8, 2)
        self.r_foreign = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, add_bias_kv=True)
        self.norm = nn.LayerNorm(4)
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.tokens = nn.Embedding(10, 4)
        self.r_memory = nn.LSTM(4, 7, 2, bidirectional=True, proj_size=3)
        self.r_cell = nn.GRUCell(4, 7)
        self.r_encoder = nn.TransformerEncoderLayer(8, 2, 16)
        self.r_nested = nn.Sequential(nn.ModuleDict({"deep": nn.Conv1d(4, 2, 1)}))
        self.position = nn.Parameter(Tensor(1, 5, 4))


def test_layer_types_are_random_by_default_and_nothing_else() -> None:
    model = Model()
    names = [name for name, _ in model.named_parameters()]
    expected = [name for name in names if name.startswith("r_") and "norm" not in name]
    assert list(random_names(model)) == expected
    assert "r_attention.in_proj_bias" in names and "r_attention.out_proj.weight" in names


def test_patterns_choose_by_name_in_the_order_of_the_module() -> None:
    model = Model()
    chosen = random_names(model, ["position", "r_linear.*", "*.weight_hh_l?", "r_linear.bias"])
    # nn.Module lists its own parameters before those of its children
    assert chosen == (
        *("position", "r_linear.weight", "r_linear.bias"),
        *("r_memory.weight_hh_l0", "r_memory.weight_hh_l1"),
    )


def test_patterns_know_upper_and_lower_case() -> None:
    with pytest.raises(ValueError, match=r"'R_LINEAR\.weight' matches no parameter"):
        random_names(Model(), ["R_LINEAR.weight"])


def test_pattern_without_match_is_named_with_what_exists() -> None:
    with pytest.raises(ValueError, match=r"'head\.\*' matches no parameter.*0\.weight, 0\.bias"):
        random_names(nn.Sequential(nn.Linear(1, 1)), ["*.weight", "head.*"])


def test_no_random_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no random weights: Sequential.*0\.weight, 0\.bias"):
        random_names(nn.Sequential(nn.LayerNorm(3)))
    with pytest.raises(ValueError, match=r"no random weights: ReLU.*none"):
        random_names(nn.ReLU())
    with pytest.raises(ValueError, match="no random weights"):
        random_names(nn.Linear(1, 1), [])


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3),
        nn.BatchNorm3d(3, affine=False),
        nn.SyncBatchNorm(3),
        nn.InstanceNorm2d(3, track_running_stats=True),
    ],
)
def test_running_statistics_are_refused_by_name(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(layer))
    with pytest.raises(ValueError, match=rf"1\.0 is a {type(layer).__name__}.*GroupNorm"):
        random_names(model)
    with pytest.raises(ValueError, match=rf"1\.0 is a {type(layer).__name__}"):
        random_names(model, ["0.weight"])  # patterns are no way around it
    with pytest.raises(ValueError, match="the module is a"):
        random_names(layer)


def test_shared_weights_appear_once() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(3, 5))
    model[1].weight = model[0].weight
    model[2].weight = model[0].weight
    # named by the embedding that comes first, random because of the linear layers
    assert random_names(model) == ("0.weight", "2.bias")


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("r_linear.weight", 4),
        ("r_linear.bias", 4),
        ("r_bilinear.weight", 4 * 5),
        ("r_conv.weight", 4 // 2 * 3 * 5),
        ("r_conv.bias", 4 // 2 * 3 * 5),
        # One output of a group sees the 4 / 2 inputs of the group under 3 x 3 taps.
        ("r_up.weight", 4 // 2 * 3 * 3),
        ("r_attention.in_proj_weight", 8),
        ("r_attention.in_proj_bias", 8),
        ("r_attention.out_proj.weight", 8),
        ("r_foreign.k_proj_weight", 6),
        ("r_foreign.v_proj_weight", 5),
        ("r_memory.weight_ih_l0", 4),
        ("r_memory.weight_hh_l0", 3),
        ("r_memory.weight_hr_l0", 7),
        ("r_memory.bias_ih_l0", 4),
        ("r_memory.bias_hh_l1_reverse", 3),
        ("r_cell.weight_hh", 7),
        ("norm.weight", 4),
    ],
)
def test_fan_in_counts_the_inputs_of_one_output(name: str, inputs: int) -> None:
    assert fan_in(Model(), name) == inputs
