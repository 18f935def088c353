"""What the values of options are, and what is said where they are not.

Of any other text argparse shows the message and ends with status 2.
"""

import argparse
import re
from pathlib import Path
from typing import Any


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def points(text: str) -> tuple[int, int]:
    """Read ROWSxCOLUMNS."""
    rows, cross, columns = text.partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r}: expected rows x columns such as 721x1440")
    return positive(rows), positive(columns)


def counts(text: str) -> list[int]:
    """Read whole numbers of at least 1, with commas between."""
    return [positive(number) for number in names(text)]


def above_zero(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


def names(text: str) -> list[str]:
    """Read names, with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[float]:
    """Read numbers, with commas between."""
    try:
        return [float(number) for number in names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers such as 500,850") from None


def file_path(text: str) -> Path:
    """Read the path of a file that is written."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty: expected that of a file")
    if text.endswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r}: is a folder: expected the path of a file")
    return Path(text)


def output_path(text: str) -> Path:
    """Read the path of a file or a folder that is written; a slash may follow a folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty: expected that of a file or a folder")
    suffix = Path(text).suffix
    if text.endswith("/") and re.fullmatch(r"\.[A-Za-z]\w*", suffix):
        raise argparse.ArgumentTypeError(
            f"{text!r}: ends as a folder does and is called {suffix} as a file is: leave the slash "
            f"out, or give a folder without {suffix}"
        )
    return Path(text)


class Once(argparse.Action):
    """Keeps the text of an option that may be given once: of two, the first would not count."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest):
            raise argparse.ArgumentError(self, f"is given twice: give one {self.metavar}")
        setattr(namespace, self.dest, values)


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Add what says which checkpoint of a run is used, and on which data."""
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.path=OTHER; of data mostly"
    )
    command.add_argument(
        "--checkpoint",
        type=_checkpoint,
        default="",
        metavar="best|last|STEP",
        help="default: the best where the run keeps it (train.keep_best), else the last",
    )


def _checkpoint(text: str) -> str:
    if text not in ("", "best", "last") and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected best, last or a number of steps")
    return text
