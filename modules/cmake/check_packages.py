"""Fail, by name, where pip would not find its packages: before minutes are spent.

Usage: python check_packages.py index
       python check_packages.py folder FOLDER REQUIREMENTS [NAME==VERSION ...]

``index`` asks pip, as the user has set it up, for one small package, once and with a short limit.
``folder`` looks for a file of each pinned package in a folder of wheels and source archives.
"""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SMALL_PACKAGE = "packaging"
LIMIT_S = 15
ADVICE = (
    "Build where there is a network (a login node), set PIP_INDEX_URL or a proxy, or fill a folder "
    "of wheels on such a machine (cmake --build build -t wheels) and say -D WHEELS=FOLDER."
)


def environment_of_pip() -> dict[str, str] | None:
    """Return the environment in which this Python has pip: its own, or the one it carries for new
    virtual environments; None where there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return dict(os.environ)
    ensurepip = importlib.util.find_spec("ensurepip")
    folders = [Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/nonexistent")]
    if ensurepip is not None and ensurepip.origin is not None:
        folders.append(Path(ensurepip.origin).with_name("_bundled"))
    wheels = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    return {**os.environ, "PYTHONPATH": str(wheels[0])} if wheels else None


def check_index() -> None:
    """Fail unless pip can fetch a small package."""
    environment = environment_of_pip()
    if environment is None:
        return  # the step that makes the environment says so
    limits = ["--retries", "0", "--timeout", str(LIMIT_S)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", *limits]
            + ["--no-deps", "--no-cache-dir", "--dest", folder, SMALL_PACKAGE],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in lines if "onnection" in line or "imed out" in line), lines[-1])
        sys.exit(f"No package index: pip cannot fetch {SMALL_PACKAGE!r} ({why.strip()}). {ADVICE}")


def check_folder(folder: Path, pins: list[str]) -> None:
    """Fail unless the folder has a file of each package in its pinned version."""
    files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    # Of NAME-VERSION-....whl and NAME-VERSION.tar.gz.
    have = {
        "-".join([normal(name), version.removesuffix(".tar.gz").partition("+")[0]])
        for name, version in (file.split("-")[:2] for file in files if "-" in file)
    }
    missing = [
        pin
        for pin in pins
        if "-".join([normal(pin.split("==")[0]), pin.split("==")[1]]) not in have
    ]
    if missing:
        sys.exit(
            f"WHEELS = {folder}: {len(missing)} of {len(pins)} packages are missing: "
            f"{', '.join(missing)}. Fill it where there is a network: "
            "cmake --build build -t wheels."
        )


def normal(name: str) -> str:
    """Return the one spelling of a package's name."""
    return re.sub(r"[-_.]+", "_", name).lower()


def pins_of(requirements: Path) -> list[str]:
    """Return NAME==VERSION of each line, without the condition behind it."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    stripped = (line.partition("#")[0].partition(";")[0].strip() for line in lines)
    return [line for line in stripped if "==" in line]


if __name__ == "__main__":
    if sys.argv[1] == "index":
        check_index()
    else:
        check_folder(Path(sys.argv[2]), [*pins_of(Path(sys.argv[3])), *sys.argv[4:]])
