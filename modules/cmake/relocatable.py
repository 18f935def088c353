"""Install what was built into a folder that works wherever it lies.

Usage: python relocatable.py FROM TO SOURCE [--link]

A virtual environment names its own folder in the first line of each script, in ``activate`` and in
``pyvenv.cfg``. In the copy, scripts start the Python beside them, and nothing names FROM or TO, so
that TO may be moved, mounted or unpacked anywhere on machines that have the Python it was made of.
The package, which is linked to its source in FROM, is installed for good. Nothing is downloaded.

``--link``: files that need no change are hard links, which cost neither time nor space.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The shell reads the second line, and starts the Python beside the script; for Python it is a text.
START = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/python "$0" "$@"
' '''
"""
LEFT_OUT = re.compile(r"activate(\..*)?|Activate\.ps1|hpc-bnn")
OF_PACKAGE = re.compile(r"__editable__.*hpc_bnn.*|hpc_bnn-.*")
# Of the files that the copy may hold, those that a tool may have written a path into.
TEXT = (".pth", ".cfg", ".conf", ".sh", ".pc", ".la", ".txt", ".ini", ".json")


def copy(source: Path, target: Path, *, link: bool) -> None:
    """Copy the environment; ``target`` must not exist."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        here = Path(folder)
        if here == source:
            return [name for name in names if name in ("bin", "lib64", "pyvenv.cfg", "stamps")]
        return [name for name in names if OF_PACKAGE.fullmatch(name)]

    put = link_or_copy if link else shutil.copy2
    shutil.copytree(source, target, symlinks=True, ignore=left_out, copy_function=put)
    if (source / "lib64").is_symlink():
        (target / "lib64").symlink_to("lib")
    write_settings(source / "pyvenv.cfg", target / "pyvenv.cfg")
    (target / "bin").mkdir()
    for script in sorted((source / "bin").iterdir()):
        if not LEFT_OUT.fullmatch(script.name):
            copy_script(script, target / "bin" / script.name, source)


def link_or_copy(source: str, target: str) -> None:
    """Make a hard link where both lie on one file system that has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_settings(source: Path, target: Path) -> None:
    """Write pyvenv.cfg without the command that made the environment."""
    lines = source.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("=")[0].strip() not in ("command", "prompt")]
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")


def copy_script(script: Path, target: Path, environment: Path) -> None:
    """Copy a link as it is, and a script of this environment's Python with another first line."""
    if script.is_symlink():
        target.symlink_to(script.readlink())
        return
    content = script.read_bytes()
    first, _, rest = content.partition(b"\n")
    if first.startswith(b"#!") and str(environment).encode() in content.partition(b"\nimport")[0]:
        # A path that is too long for a first line is already written like START, on three lines.
        body = rest if b"/bin/sh" not in first else content.split(b"\n' '''\n", 1)[1]
        target.write_bytes(START.encode() + body)
        shutil.copymode(script, target)
    else:
        shutil.copy2(script, target)


def install_package(source: Path, target: Path) -> None:
    """Install hpc_bnn from a copy of its source: setuptools leaves its work where it builds."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name in ("setup.py", "README.md", "LICENSE"):
            shutil.copy2(source / name, folder)
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(source / "hpc_bnn", Path(folder) / "hpc_bnn", ignore=ignored)
        pip = [target / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install"]
        options = ["-qq", "--no-deps", "--no-index", "--no-build-isolation", "--use-pep517"]
        subprocess.run([*pip, *options, folder], check=True)
    (record,) = target.glob("lib/python*/site-packages/hpc_bnn-*/RECORD")
    # Where pip found it is gone.
    (record.with_name("direct_url.json")).unlink(missing_ok=True)
    lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if "/direct_url.json," not in line]
    record.write_text("".join(kept), encoding="utf-8")
    script = target / "bin" / "hpc-bnn"
    made_by_pip = script.rename(script.with_suffix(".pip"))
    copy_script(made_by_pip, script, target)
    made_by_pip.unlink()


def named_in(target: Path, *folders: Path) -> list[Path]:
    """Return the files of the copy that depend on one of the folders."""
    paths = [f"{folder}/".encode() for folder in folders]
    found = []
    for file in sorted(target.rglob("*")):
        is_library = ".so" in file.name
        looked_at = is_library or file.suffix in TEXT or file.parent.name == "bin"
        if looked_at and file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if any(path in content for path in paths) and is_library:
                content = search_path(file)  # debug texts may name the headers it was made of
            if any(path in content for path in paths):
                found.append(file.relative_to(target))
    return found


def search_path(library: Path) -> bytes:
    """Return what a library says of the libraries it loads, and where they lie."""
    return subprocess.run(["readelf", "-d", library], check=True, stdout=subprocess.PIPE).stdout


def main(environment: Path, target: Path, source: Path, *, link: bool) -> None:
    """Copy and install, and fail where the copy would depend on a place."""
    copy(environment, target, link=link)
    install_package(source, target)
    named = named_in(target, environment, target)
    if named:
        sys.exit(
            f"{target}: not relocatable, {len(named)} file(s) name its folder or {environment}: "
            f"{', '.join(map(str, named[:5]))}. Build the environment again in a new build folder."
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), link="--link" in sys.argv[4:])
