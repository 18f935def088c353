"""``hpc-bnn doctor``: what is built and wired."""

import argparse

from hpc_bnn.group import Group
from hpc_bnn.study import doctor


def doctor_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: return a table, what is bad with its remedy, and status 1 where anything is."""
    findings = doctor.diagnose(all_ranks, options.run_folder)
    width, lines = max(len(finding.what) for finding in findings), []
    for finding in findings:
        lines.append(
            f"{'ok ' if finding.good else 'BAD'}  {finding.what:{width}s}  {finding.value}"
        )
        if not finding.good:
            lines.append(f"     {'':{width}s}  -> {finding.remedy}")
    return lines, 0 if all(finding.good for finding in findings) else 1
