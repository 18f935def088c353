"""Words that a shell would expand reach the ranks on real nodes as they were written."""

import json
from pathlib import Path

from cluster import Cluster
from jobs import submit

WORDS = [
    "train.start_from=$(touch EXPANDED)", "a=`touch EXPANDED`; touch EXPANDED &", "it's \"b\" \\",
    "one\ntouch EXPANDED\n", "a\tb", "* ? {a,b} $HOME ~", "M\u00fcnchen \U0001f327", "", "%j %n %t",
]  # fmt: skip
SCRIPT = """import json, os, pathlib, sys
path = pathlib.Path(f"rank-{os.environ['SLURM_PROCID']}.json")
path.write_text(json.dumps(sys.argv[1:]))
"""


def test_of_a_script(cluster: Cluster, scripts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "it's $(touch EXPANDED) here"
    folder.mkdir()
    script = folder / "my $(touch EXPANDED) script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    words = ("--nodes=2", "--ntasks-per-node=1", scripts / "script.sbatch", script, *WORDS)
    job = submit(cluster, folder, *words)
    assert job.ended()["ExitCode"] == "0:0", job.report()
    for rank in (0, 1):
        assert json.loads((folder / f"rank-{rank}.json").read_text()) == WORDS
    assert not list(tmp_path.rglob("EXPANDED"))
