"""``hpc-bnn report``: runs, or a scaling study, as one page of HTML."""

import argparse

from hpc_bnn.group import Group
from hpc_bnn.study.report.page import write_report


def report_command(options: argparse.Namespace, _: Group) -> tuple[list[str], int]:
    """Write the page; return lines of text and the status."""
    scorecard = list[str]()
    problems = write_report(options.folders, options.output, scorecard=scorecard)
    size = options.output.stat().st_size / 1e6
    return [*problems, *scorecard, f"{options.output}: {size:.1f} MB, opens in any browser"], 0
