"""``hpc-bnn help``: the pages of the guide that ships with the package."""

import argparse
import pydoc
import sys
from pathlib import Path

import hpc_bnn
from hpc_bnn.group import Group
from hpc_bnn.spelling import nearest

GUIDE = Path(hpc_bnn.__file__).parent / "guide"
OF_MACHINE = "first_run.md"  # beside the environment, where CMake built it for a site


def help_command(options: argparse.Namespace, _: Group) -> tuple[list[str], int]:
    """Return a page, or the list of pages, as lines of text, and the status; a page that is longer
    than the terminal goes through its pager instead.
    """
    pages = {path.stem: path for path in sorted(GUIDE.glob("*.md"))}
    of_machine = Path(sys.prefix).parent / OF_MACHINE
    if of_machine.is_file():
        pages["machine"] = of_machine
    if not options.page:
        width = max(map(len, pages))
        lines = [f"  {name:{width}s}  {title(path)}" for name, path in pages.items()]
        return ["Pages of the guide; hpc-bnn help PAGE shows one.", "", *lines], 0
    if options.page not in pages:
        raise ValueError(
            f"{options.page}: there is no such page; expected one of {', '.join(pages)}"
            f"{nearest(options.page, pages)}"
        )
    lines = pages[options.page].read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("![")]  # a terminal shows no pictures
    if sys.stdout.isatty():
        pydoc.pager("\n".join(lines))
        return [], 0
    return lines, 0


def title(path: Path) -> str:
    """Return the first heading of a page."""
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
