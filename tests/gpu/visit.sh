#!/usr/bin/env bash
# One visit to a machine with a GPU and without a network: runs tests/gpu and prints the figures.
#
#   bash tests/gpu/visit.sh [WHEELS]      about three minutes; ends by itself after nine
#
# Needs Python >= 3.11 with its headers, a C compiler and the driver of the GPU; neither MPI nor Horovod: one
# GPU, one process. WHEELS is a folder filled where there is a network, by the same Python on the same kind of
# processor; the torch of PyPI is built for CUDA and brings its Triton:
#
#   python3 -m pip download -d WHEELS torch==2.13.0 numpy netCDF4 pydantic PyYAML matplotlib tqdm pytest \
#     setuptools
#
# Without WHEELS the python3 on PATH must have all of these. Everything is left in a temporary folder that is
# removed, but for the compiled C kernels, which stand beside their sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ ${VISIT_LIMITED-} ]] || VISIT_LIMITED=1 exec timeout --kill-after=10 540 bash tests/gpu/visit.sh "$@"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PYTHONPATH=$PWD TRITON_CACHE_DIR=$folder/triton PYTHONDONTWRITEBYTECODE=1
python=python3
if (($#)); then
  python3 -m venv "$folder/env"
  python=$folder/env/bin/python
  "$python" -m pip --disable-pip-version-check install -q --no-index --find-links "$1" \
    torch numpy netCDF4 pydantic PyYAML matplotlib tqdm pytest setuptools
fi
"$python" setup.py -q build_ext --inplace --build-temp "$folder/build"

"$python" -m hpc_bnn doctor || true  # a machine without MPI is told of it
status=0
"$python" -m pytest -rs --durations=0 --durations-min=0.1 -p no:cacheprovider tests/gpu || status=$?

"$python" - <<'END'
import torch
from hpc_bnn.bayes.noise import Purpose, Stream, normals

COUNT, ROUNDS = 2**28, 10
STREAM = Stream(seed=1, purpose=Purpose.WEIGHTS, step=2, sample=3)
for name, fill in {
    "keyed normals": lambda: normals(STREAM, (COUNT,), device="cuda"),
    "torch.randn": lambda: torch.randn(COUNT, device="cuda"),
}.items():
    fill()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(ROUNDS):
        fill()
    end.record()
    end.synchronize()
    picoseconds = 1e9 * start.elapsed_time(end) / (ROUNDS * COUNT)
    print(f"{torch.cuda.get_device_name()}: {name:14s} {picoseconds:6.2f} ps a number")
END
exit "$status"
