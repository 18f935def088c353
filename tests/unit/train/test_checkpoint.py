"""Checkpoints: whole or absent, never silently changed, readable by plain torch."""

import logging
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes import Gaussian
from hpc_bnn.group import ALONE
from hpc_bnn.lock import LockError
from hpc_bnn.losses import gaussian_moments, gaussian_nll
from hpc_bnn.models import MODELS
from hpc_bnn.train.run.checkpoint import (
    FORMAT,
    Checkpoint,
    CheckpointError,
    available,
    digest,
    load,
    newest_good,
    save,
)
from hpc_bnn.train.run.state import gather_ema, outline, restore, restore_ema
from hpc_bnn.train.step.ema import EMA

STATE = {
    "single": torch.linspace(-1, 1, 500),
    "double": torch.linspace(-1, 1, 500, dtype=torch.float64) / 3,
    "half": torch.linspace(-1, 1, 500).to(torch.bfloat16),
    "counts": torch.arange(7),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 3),
}


def some(step: int = 3, **changes: object) -> Checkpoint:
    whole = Checkpoint(
        step=step,
        position={"epoch": 1, "cursor": 2, "seed": 5},
        posterior=STATE,
        loss={},
        optimizer={"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        settings="seed: 5\n",
        versions={"torch": "x"},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return digest(vars(a)) == digest(vars(b))


def test_round_trip_of_every_dtype(tmp_path: Path) -> None:
    path = save(tmp_path / "new" / "folder", some(), keep=1)
    assert path.name == "step-00000003.pt"
    found = load(path)
    assert same(found, some())
    for name, tensor in STATE.items():
        assert found.posterior[name].dtype == tensor.dtype
        assert torch.equal(found.posterior[name], tensor)
    assert (found.step, found.settings) == (3, "seed: 5\n")
    assert dict(found.position) == {"epoch": 1, "cursor": 2, "seed": 5}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_plain_torch_reads_it_with_weights_only(tmp_path: Path) -> None:
    path = save(tmp_path, some(), keep=1)
    content = torch.load(path, weights_only=True)
    assert content["format"] == FORMAT
    assert torch.equal(content["posterior"]["double"], STATE["double"])


def parts(
    hidden: int = 4, *, dtype: torch.dtype = torch.float32
) -> tuple[Gaussian, nn.Module, torch.optim.Adam]:
    network = MODELS["mlp"]((3,), (2,), hidden=[hidden]).to(dtype)
    posterior, loss = Gaussian(network), gaussian_nll(variance="learned").to(dtype)
    return posterior, loss, torch.optim.Adam([*posterior.parameters(), *loss.parameters()], lr=0.1)


def stepped(
    posterior: Gaussian, loss: nn.Module, optimizer: torch.optim.Adam, steps: int
) -> list[Tensor]:
    """Train on a quadratic that moves every parameter, and return copies of all of them."""
    everything = [*posterior.parameters(), *loss.parameters()]
    for k in range(steps):
        optimizer.zero_grad()
        sum((p * (1.0 + k) - 0.3).square().sum() for p in everything).backward()  # type: ignore[union-attr]
        optimizer.step()
    return [p.detach().clone() for p in everything]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_restored_run_goes_on_as_if_nothing_happened(tmp_path: Path, dtype: torch.dtype) -> None:
    """Moments and step counts of Adam are part of it: one more step gives the same bits."""
    first = parts(dtype=dtype)
    stepped(*first, 3)
    posterior, loss, optimizer = first
    state = some(
        posterior=posterior.state_dict(), loss=loss.state_dict(), optimizer=optimizer.state_dict()
    )
    path = save(tmp_path, state, keep=1)
    second = parts(dtype=dtype)
    restore(path, load(path), *second)
    expected, found = stepped(*first, 2), stepped(*second, 2)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_checkpoint_of_version_0_1_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """Format 1 named no per-sample tensors."""
    posterior, loss, optimizer = first = parts()
    stepped(*first, 3)
    state = some(
        posterior=posterior.state_dict(), loss=loss.state_dict(), optimizer=optimizer.state_dict()
    )
    content = {"format": 1, **vars(state)}
    del content["per_sample"], content["ema"]
    path = tmp_path / "step-00000003.pt"
    torch.save({**content, "sha256": digest(content)}, path)
    found, second = load(path), parts()
    assert list(found.per_sample) == []
    restore(path, found, *second)
    expected, got = stepped(*first, 2), stepped(*second, 2)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_a_checkpoint_of_format_2_is_read(tmp_path: Path) -> None:
    """It held no moving averages."""
    state = some(per_sample=["single"])
    content = {"format": 2, **vars(state)}
    del content["ema"]
    path = tmp_path / "step-00000003.pt"
    torch.save({**content, "sha256": digest(content)}, path)
    assert same(load(path), state)
    assert load(path).ema == {}


def test_a_checkpoint_of_format_4_is_read(tmp_path: Path) -> None:
    """It held one sha256, for which all of it must be read."""
    content = {"format": 4, **vars(some())}
    path = tmp_path / "step-00000003.pt"
    torch.save({**content, "sha256": digest(content)}, path)
    assert same(load(path), some())
    assert same(load(path, moments=False), some(optimizer={}))
    torch.save({**content, "step": 4, "sha256": digest(content)}, path)
    with pytest.raises(CheckpointError, match=r"damaged checkpoint \(its sha256"):
        load(path)


def test_moments_are_not_read_to_predict(tmp_path: Path) -> None:
    """Where their bytes are damaged, predictions go on; training does not, and says where."""
    noticed = torch.full((1000,), 7.25)
    path = save(tmp_path, some(optimizer={"state": {0: {"exp_avg": noticed}}}), keep=1)
    content = path.read_bytes()
    assert content.count(noticed.numpy().tobytes()) == 1
    place = content.index(noticed.numpy().tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    assert same(load(path, moments=False), some(optimizer={}))
    with pytest.raises(CheckpointError, match=r"its content: optimizer\)"):
        load(path)
    place = content.index(STATE["double"].numpy().tobytes())
    path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
    with pytest.raises(CheckpointError, match=r"its content: posterior\)"):
        load(path, moments=False)


def test_moving_averages_come_back(tmp_path: Path) -> None:
    """Into those of a run that goes on, or into the parameters, in their own dtype."""
    posterior, _loss, _ = parts(dtype=torch.bfloat16)
    named = dict(posterior.named_parameters())
    ema = EMA(named, 0.5)
    for value in (1.0, 2.0):
        for p in named.values():
            p.data.fill_(value)
        ema.update(named)
    path = save(tmp_path, some(ema=gather_ema(ema, posterior, ALONE)), keep=1)
    found, (other, same_loss, _) = load(path), parts(dtype=torch.bfloat16)
    again = EMA(dict(other.named_parameters()), 0.5)
    restore_ema(path, found, other, same_loss, again)
    assert again.steps == 2
    for name, average in again.weights.items():
        assert average.dtype == torch.float32
        assert torch.allclose(average, torch.tensor(5 / 3))
        assert torch.equal(average, ema.weights[name])
    restore_ema(path, found, other, same_loss, None)
    for name, p in other.named_parameters():
        assert torch.equal(p, ema.weights[name].to(p.dtype))
    fewer = EMA(dict(other.module.named_parameters()), 0.5)
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: moving averages of other para"):
        restore_ema(path, found, other, same_loss, fewer)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: parts(5), r"posterior\.module\.layers\.0\.weight is \(4, 3\) .* \(5, 3\)"),
        (
            lambda: parts(dtype=torch.float64),
            r"posterior\.module\.layers\.0\.weight is \(4, 3\) torch\.float32 in it",
        ),
    ],
)
def test_another_model_is_refused_by_its_first_tensor(
    tmp_path: Path, other: Callable[[], tuple[Gaussian, nn.Module, torch.optim.Adam]], told: str
) -> None:
    posterior, loss, _ = parts()
    state = some(posterior=posterior.state_dict(), loss=loss.state_dict())
    with pytest.raises(CheckpointError, match=told) as caught:
        restore(tmp_path / "a.pt", state, *other())
    assert str(caught.value).startswith(f"{tmp_path / 'a.pt'}: checkpoint of another model")


def test_missing_and_surplus_tensors_are_named() -> None:
    posterior, loss, optimizer = parts()
    state = dict(posterior.state_dict())
    first = next(iter(state))
    short = {name: tensor for name, tensor in state.items() if name != first}
    with pytest.raises(CheckpointError, match=rf"posterior\.{first} is missing from it"):
        restore(Path("a.pt"), some(posterior=short), posterior, loss, optimizer)
    with pytest.raises(CheckpointError, match=r"posterior\.more has no place here"):
        more = {**state, "more": torch.zeros(1)}
        restore(Path("a.pt"), some(posterior=more), posterior, loss, optimizer)
    with pytest.raises(CheckpointError, match=r"loss\.likelihood\.log_sigma is missing"):
        restore(Path("a.pt"), some(posterior=state, loss={}), posterior, loss, optimizer)
    with pytest.raises(CheckpointError, match=r"loss\.log_sigma has no place here"):
        learned = gaussian_moments(learned=True).state_dict()
        fixed = gaussian_moments()
        restore(Path("a.pt"), some(posterior=state, loss=learned), posterior, fixed, optimizer)


@pytest.mark.parametrize("keep_bytes", [0, 1, 100, 0.25, 0.5, 0.9, -1])
def test_truncated_files_are_refused(tmp_path: Path, keep_bytes: float) -> None:
    path = save(tmp_path, some(), keep=1)
    content = path.read_bytes()
    size = int(keep_bytes * len(content)) if isinstance(keep_bytes, float) else keep_bytes
    path.write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: damaged or truncated"):
        load(path)


def tensor_data(path: Path, size: int) -> tuple[int, int]:
    """Return where the bytes of a stored tensor of ``size`` bytes begin and end in the file."""
    with zipfile.ZipFile(path) as archive:
        (info,) = [i for i in archive.infolist() if "/data/" in i.filename and i.file_size == size]
        header = path.read_bytes()[info.header_offset : info.header_offset + 30]
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    begin = info.header_offset + 30 + names
    return begin, begin + size


@pytest.mark.parametrize("size", [2000, 4000, 1000], ids=["float32", "float64", "bf16"])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_changed_bit_in_a_tensor_is_found(
    tmp_path: Path, size: int, place: float, bit: int
) -> None:
    path = save(tmp_path, some(), keep=1)
    begin, end = tensor_data(path, size)
    content = bytearray(path.read_bytes())
    content[begin + int(place * (end - begin - 1))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: damaged"):
        load(path)


def test_a_changed_byte_anywhere_is_found_or_harmless(tmp_path: Path) -> None:
    """Headers of the archive hold padding and dates; nothing else may change unseen."""
    path = save(tmp_path, some(), keep=1)
    content = path.read_bytes()
    spots = [
        *range(0, 120, 7),
        *range(0, len(content), 397),
        *range(len(content) - 60, len(content)),
    ]
    refused = 0
    for spot in spots:
        changed = bytearray(content)
        changed[spot] ^= 0xFF
        path.write_bytes(changed)
        try:
            assert same(load(path), some()), f"byte {spot} changed the content unseen"
        except CheckpointError:
            refused += 1
    assert refused > len(spots) // 3


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\0" * 1000])
def test_what_is_not_a_checkpoint_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-00000001.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000001\.pt: damaged or truncated"):
        load(path)


@pytest.mark.parametrize("content", [{"model": torch.zeros(2)}, [1, 2], torch.zeros(3)])
def test_a_torch_file_of_something_else(tmp_path: Path, content: object) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of hpc_bnn"):
        load(path)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "step-00000001.pt"
    torch.save({"sha256": Trap()}, path)
    with pytest.raises(CheckpointError, match=r"damaged .*are not read") as error:
        load(path)
    assert "weights_only" not in str(error.value), "torch advises to read it nevertheless"
    assert not (tmp_path / "ran").exists()


def test_another_format_number_says_which_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, some(), keep=1)
    content = torch.load(path, weights_only=True)
    content["format"] = 99
    torch.save(content, path)
    with pytest.raises(
        CheckpointError, match=rf"format 99, this version reads 1, 2, 3, 4, {FORMAT};"
    ):
        load(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda content: content.pop("position"),
            r"lacks 'position': expected ema, loss, optimizer",
        ),
        (lambda content: content.update(members=3), r"has unknown 'members': expected ema, loss"),
    ],
)
def test_other_keys_than_those_of_this_format_are_named(
    tmp_path: Path, change: Callable[[dict[str, object]], object], told: str
) -> None:
    """As another version might write them, whole and with the right digest."""
    path = save(tmp_path, some(), keep=1)
    content = torch.load(path, weights_only=True)
    del content["sha256"]
    change(content)
    sums = {name: digest(value) for name, value in content.items()}
    torch.save({**content, "sha256": sums}, path)
    with pytest.raises(CheckpointError, match=rf"step-00000003\.pt: {told}"):
        load(path)


def test_the_state_of_another_optimizer_is_refused() -> None:
    posterior, loss, optimizer = parts()
    fewer = torch.optim.Adam(posterior.parameters())
    state = some(
        posterior=posterior.state_dict(), loss=loss.state_dict(), optimizer=fewer.state_dict()
    )
    with pytest.raises(CheckpointError, match=r"a\.pt: checkpoint of another optimizer \("):
        restore(Path("a.pt"), state, posterior, loss, optimizer)


def test_an_outline_holds_everything_but_numbers() -> None:
    told = outline(some())
    assert (told.step, told.settings, told.position) == (3, "seed: 5\n", some().position)
    for name, tensor in STATE.items():
        assert told.posterior[name].is_meta
        assert (told.posterior[name].shape, told.posterior[name].dtype) == (
            tensor.shape,
            tensor.dtype,
        )
    assert told.optimizer["param_groups"] == [{"lr": 0.1}]
    large = some(posterior={"large": torch.zeros(1_000_000)})
    assert len(pickle.dumps(outline(large))) < 2000


def test_an_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"step-00000009\.pt: no such checkpoint"):
        load(tmp_path / "step-00000009.pt")


def test_the_digest_is_of_the_content_not_of_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": torch.ones(2)}) == digest({"b": torch.ones(2), "a": 1})
    variants = [
        {"a": torch.ones(2)},
        {"a": torch.ones(2).double()},
        {"a": torch.ones(2, 1)},
        {"b": torch.ones(2)},
        {"a": -torch.ones(2)},
        {"a": [1, 1]},
        {"a": "1"},
        {"a": 1},
        {"a": 1.5},
        {"a": {}},
        {"a": []},
        {},
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
    turned = torch.arange(6.0).reshape(2, 3).t()
    assert digest(turned) == digest(turned.contiguous())


def steps(folder: Path) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in available(folder)]


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [5]), (2, [4, 5]), (3, [3, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_the_newest_are_kept(tmp_path: Path, keep: int, left: list[int]) -> None:
    for step in range(1, 6):
        save(tmp_path, some(step), keep=keep)
    assert steps(tmp_path) == left


def test_the_checkpoint_just_written_is_never_deleted(tmp_path: Path) -> None:
    """A resumed run may lie before damaged files; they are not *newer*, they are worthless."""
    for step in (4, 8, 12):
        save(tmp_path, some(step), keep=3)
    for step in (8, 12):
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"damaged")
    path = save(tmp_path, some(6), keep=1)
    assert same(load(path), some(6))


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("best.pt", "step-1.pt", "step-00000001.pt.bak", "notes.txt"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    for step in (1, 2):
        save(tmp_path, some(step), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.pt",
        "notes.txt",
        "step-00000001.pt.bak",
        "step-00000002.pt",
        "step-1.pt",
    ]


def test_what_is_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever."""
    path = save(tmp_path, some(1), keep=1)
    (tmp_path / "step-00000002.pt").mkdir()
    os.mkfifo(tmp_path / "step-00000003.pt")
    found = newest_good(tmp_path)
    assert found is not None
    assert found[0] == path


def test_no_folder_and_no_file_give_no_checkpoint(tmp_path: Path) -> None:
    assert available(tmp_path / "absent") == []
    assert newest_good(tmp_path / "absent") is None
    assert newest_good(tmp_path) is None


def test_a_damaged_newest_falls_back_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        save(tmp_path, some(step), keep=3)
    newest = tmp_path / "step-00000003.pt"
    newest.write_bytes(newest.read_bytes()[:2000])
    with caplog.at_level(logging.WARNING, logger="hpc_bnn"):
        found = newest_good(tmp_path)
    assert found is not None
    assert (found[0].name, found[1].step) == ("step-00000002.pt", 2)
    (record,) = caplog.records
    assert str(newest) in record.getMessage()
    assert "falling back" in record.getMessage()


def test_a_good_newest_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        save(tmp_path, some(step), keep=2)
    found = newest_good(tmp_path)
    assert found is not None
    assert found[1].step == 2
    assert not caplog.records


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, some(step), keep=2).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints are damaged; restore one or"):
        newest_good(tmp_path)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB, where this process may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


BIG = {"big": torch.zeros(40_000)}


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_partial_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        save(disk, some(1), keep=1)
        with pytest.raises(CheckpointError, match="cannot write the checkpoint") as caught:
            save(disk, some(2, posterior=BIG), keep=1)
        assert str(disk / "step-00000002.pt") in str(caught.value)
        assert "MB are free there" in str(caught.value)
        assert "Earlier checkpoints are unharmed" in str(caught.value)
        assert [path.name for path in disk.iterdir()] == ["step-00000001.pt"]
        assert same(load(disk / "step-00000001.pt"), some(1))


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError, save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
state = Checkpoint(2, {}, {"big": torch.zeros(40_000)}, {}, {}, "", {})
try:
    save(Path(sys.argv[1]), state, keep=1)
except CheckpointError as error:
    print(error)
"""


def test_a_file_size_limit_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, some(1), keep=1)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "step-00000002.pt: cannot write the checkpoint" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert same(load(tmp_path / "step-00000001.pt"), some(1))


# Not by file modes: root ignores them.
def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint"):
        save(tmp_path / "file" / "checkpoints", some(), keep=1)


def test_an_interrupted_write_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, some(1), keep=3)
    (tmp_path / "step-00000002.4711.partial").write_bytes(b"half a file")
    assert steps(tmp_path) == [1]
    found = newest_good(tmp_path)
    assert found is not None
    assert found[1].step == 1


@pytest.mark.parametrize("lost_at", [1, 2], ids=["before it is written", "while it is written"])
def test_a_folder_that_another_job_has_taken(tmp_path: Path, lost_at: int) -> None:
    first = save(tmp_path, some(1), keep=1)
    asked = []

    def require_own() -> None:
        asked.append(1)
        if len(asked) == lost_at:
            raise LockError("another job has it")

    with pytest.raises(LockError, match="another job has it"):
        save(tmp_path, some(2), keep=1, require_own=require_own)
    assert list(tmp_path.iterdir()) == [first]
