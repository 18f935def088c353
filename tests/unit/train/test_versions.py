"""The versions of a run: what is there, and the commit of a checkout."""

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import hpc_bnn as hb
from hpc_bnn.train.run import versions as module
from hpc_bnn.train.run.versions import PACKAGE, code_here, code_of_model, commit_of, versions

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "code.py").write_text("1\n")
    git(folder, "init", "-q")
    git(folder, "add", "code.py")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def test_what_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions()
    assert found["hpc_bnn"] == hb.__version__
    assert found["torch"] == torch.__version__
    assert {"python", "mpi"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
    assert found.get("cuda") == torch.version.cuda
    assert found.get("rocm") == torch.version.hip

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 7")
    assert versions()["horovod"] == "horovod 7"
    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert "horovod" not in versions()
    monkeypatch.setattr(module, "commit_of", lambda folder: None)
    assert "commit" not in versions()


def test_the_checkout_is_the_folder_of_the_package() -> None:
    assert (module.CHECKOUT / "hpc_bnn" / "__init__.py").samefile(Path(hb.__file__))


def test_an_accelerator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    assert (versions()["cuda"], versions()["nccl"]) == ("12.8", "2.27.3")


@needs_git
def test_a_checkout_has_a_commit(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    clean = commit_of(checkout)
    assert clean is not None and head.startswith(clean)
    (checkout / "code.py").write_text("2\n")
    assert commit_of(checkout) == clean  # code is read once, at the start
    commit_of.cache_clear()
    assert commit_of(checkout) == f"{clean}-dirty"
    commit_of.cache_clear()
    git(checkout, "worktree", "add", "-q", "../other")
    assert commit_of(checkout.parent / "other") == clean


@needs_git
def test_a_folder_inside_the_checkout_of_something_else_has_none(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an environment inside the user's repository."""
    packages = checkout / "env" / "site-packages"
    packages.mkdir(parents=True)
    assert commit_of(packages) is None
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert commit_of(packages) is None


def test_without_git_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    (broken / ".git").mkdir(parents=True)
    assert commit_of(broken) is None
    commit_of.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(broken) is None
    assert capfd.readouterr() == ("", "")


def test_a_file_that_computes_counts(tmp_path: Path) -> None:
    """By its content, wherever the package lies; the time of a copy does not."""
    here = code_here()
    assert {"bayes/noise.py", "losses/nll.py", "train/step/step.py"} < here.keys()
    copy = tmp_path / "hpc_bnn"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_here(copy) == here
    file = copy / "losses" / "nll.py"
    file.write_text(file.read_text().replace("0.5", "0.6", 1))
    (copy / "cli" / "program.py").write_text("other words\n")
    changed = code_here(copy)
    assert [name for name in here if changed[name] != here[name]] == ["losses/nll.py"]


NET = """
class Net:
    def __init__(self, shape_in, shape_out): ...
"""


def test_the_files_of_a_network_of_ones_own_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module; in a package what lies beside it and below, and no other package."""
    package = tmp_path / "nets_of_versions"
    (package / "parts").mkdir(parents=True)
    (tmp_path / "net_of_versions.py").write_text(NET)
    for name in ("__init__.py", "net.py", "blocks.py", "parts/__init__.py", "parts/mixer.py"):
        (package / name).write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    assert code_of_model("mlp") == {}
    assert list(code_of_model("net_of_versions:Net")) == ["net_of_versions.py"]
    (package / ".#net.py").symlink_to("nobody@nowhere")  # as an editor leaves it
    (package / "out.py").mkdir()
    here = code_of_model("nets_of_versions.net:Net")
    names = ("__init__.py", "blocks.py", "net.py", "parts/__init__.py", "parts/mixer.py")
    assert list(here) == [f"nets_of_versions/{name}" for name in names]
    (package / "blocks.py").write_text("other words\n")
    changed = code_of_model("nets_of_versions.net:Net")
    assert [name for name in here if changed[name] != here[name]] == ["nets_of_versions/blocks.py"]
