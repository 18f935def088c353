"""One rank reads a checkpoint, all of them have it: bit by bit, and no rank holds it twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes import Gaussian
from hpc_bnn.bayes.rows import Rows
from hpc_bnn.group import Group
from hpc_bnn.losses import gaussian_nll
from hpc_bnn.models import MODELS
from hpc_bnn.parallel import mpi_group
from hpc_bnn.train.run import transfer
from hpc_bnn.train.run.checkpoint import (
    Checkpoint,
    CheckpointError,
    digest,
    load,
    save,
)
from hpc_bnn.train.run.state import outline, restore

Parts = tuple[Gaussian, nn.Module, torch.optim.Optimizer]


def made(hidden: int = 4) -> Parts:
    """Every rank makes other parameters."""
    posterior = Gaussian(MODELS["mlp"]((3,), (2,), hidden=[hidden]))
    loss = gaussian_nll(variance="learned")
    return posterior, loss, torch.optim.Adam([*posterior.parameters(), *loss.parameters()])


def trained() -> Parts:
    parts = made()
    for _ in range(3):
        for group in parts[2].param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.rand_like(parameter)
        parts[2].step()
    return parts


def content(parts: Parts) -> dict[str, object]:
    return {"parts": [part.state_dict() for part in parts]}


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


@pytest.fixture
def saved(all_ranks: Group, folder: Path) -> tuple[Path, Checkpoint, str]:
    """A checkpoint that only rank 0 has read, and the digest of its state."""
    path, mine, state = folder / "step-00000003.pt", "", None
    if all_ranks.rank == 0:
        parts = trained()
        posterior, loss, optimizer = (part.state_dict() for part in parts)
        save(folder, Checkpoint(3, {}, posterior, loss, optimizer, "", {}), keep=1)
        state, mine = load(path), digest(content(parts))
    told = all_ranks.broadcast(None if state is None else outline(state), name="outline")
    expected = all_ranks.broadcast(mine, name="digest")
    assert told is not None
    assert all(tensor.is_meta for tensor in told.posterior.values())
    return path, state or told, expected


@pytest.mark.parametrize("part_bytes", [5, 64 << 20])
def test_every_rank_gets_the_state_of_the_one_that_read_it(
    all_ranks: Group,
    saved: tuple[Path, Checkpoint, str],
    part_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (mpi_group, transfer):
        monkeypatch.setattr(module, "PART_BYTES", part_bytes)
    path, state, expected = saved
    parts = made()
    memory = [parameter.data_ptr() for parameter in parts[0].parameters()]
    restore(path, state, *parts, all_ranks)
    assert digest(content(parts)) == expected
    assert [parameter.data_ptr() for parameter in parts[0].parameters()] == memory
    # The moments are the optimizer's own, not pages of the file, which may be deleted.
    assert not any(t.is_meta for t in moments(parts))
    kept = digest(content(parts))
    all_ranks.gather(None, name="restored")
    if all_ranks.rank == 0:
        path.write_bytes(b"\0" * path.stat().st_size)
    all_ranks.gather(None, name="overwritten")
    assert digest(content(parts)) == kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool], ids=str)
def test_rows_travel_to_the_first_rank_and_back(
    all_ranks: Group, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of 40 bytes, of which a row has some and a bit."""
    monkeypatch.setattr(transfer, "PART_BYTES", 40)
    whole = (torch.arange(12 * 7 * 3) % 5 - 1).view(12, 7, 3).to(dtype)
    count = 12 // all_ranks.size
    samples = range(all_ranks.rank * count, (all_ranks.rank + 1) * count)
    source = whole if all_ranks.rank == 0 else torch.empty_like(whole, device="meta")
    own = Rows(torch.zeros(count, 7, 3, dtype=dtype), samples)
    transfer.hand_out(all_ranks, own, source, name="rows")
    assert torch.equal(own.tensor, whole[samples.start : samples.stop])
    back = transfer.collect_rows(own, all_ranks, name="rows")
    assert back.is_meta == (all_ranks.rank > 0)
    assert back.is_meta or torch.equal(back, whole)


def moments(parts: Parts) -> list[Tensor]:
    return [t for state in parts[2].state.values() for t in state.values()]


def test_without_the_optimizer(all_ranks: Group, saved: tuple[Path, Checkpoint, str]) -> None:
    path, state, _ = saved
    posterior, loss, optimizer = made()
    restore(path, state, posterior, loss, None, all_ranks)
    assert not optimizer.state
    everyone = all_ranks.gather(digest(posterior.state_dict()), name="digests")
    assert len(set(everyone)) == 1


def test_another_network_is_refused_on_every_rank(
    all_ranks: Group, saved: tuple[Path, Checkpoint, str]
) -> None:
    path, state, _ = saved
    with pytest.raises(CheckpointError, match=r"posterior\.module\.layers\.0\.weight is \(4, 3\)"):
        restore(path, state, *made(5), all_ranks)
