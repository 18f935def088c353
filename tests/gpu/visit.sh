#!/usr/bin/env bash
# One visit to a machine with a GPU and without a network: runs tests/gpu, then measures, and prints the
# figures last. Ends by itself after eight minutes.
#
#   bash tests/gpu/visit.sh [--wheels DIR] [--out DIR] [--device cuda|cpu]
#   bash tests/gpu/visit.sh --collect DIR [PACKAGE...]
#
# PYTHON names another python3.
#
# The machine has one GPU with its driver, a C compiler, and a python3 >= 3.11 with its headers, torch for CUDA,
# triton and pytest. What that python3 lacks comes along as wheels in DIR, which --collect fills where there is a
# network: netCDF4, pydantic and what else is named, with what they need beyond torch; for PYTHON_OF_VISIT (3.12) on
# x86-64.
#
#   --out DIR       where figures.json and the log of the tests are left (build/visit)
#   --device cpu    a dry run: tests are collected, not run, and sizes are tiny
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-python3}
seconds=480
tests_seconds=230

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}

collect() {
  local folder=$1 platforms=() version
  shift
  for version in 28 27 24 17; do platforms+=(--platform "manylinux_2_${version}_x86_64"); done
  "$python" -m pip --disable-pip-version-check download -q --only-binary=:all: \
    --python-version "${PYTHON_OF_VISIT:-3.12}" --implementation cp "${platforms[@]}" \
    --platform manylinux2014_x86_64 -d "$folder" netCDF4 pydantic "$@"
  rm -f "$folder"/{numpy,certifi,typing_extensions}-*.whl # they would hide those that torch was installed with
  du -shc "$folder"/*.whl
}

wheels='' out=$PWD/build/visit device=cuda
while (($#)); do
  case $1 in
    --wheels) wheels=$(realpath "${2?--wheels DIR}") ;;
    --out) out=$(realpath -m "${2?--out DIR}") ;;
    --device) device=${2?--device cuda|cpu} ;;
    --collect)
      shift
      (($#)) || usage
      collect "$@"
      exit
      ;;
    *) usage ;;
  esac
  shift 2 || usage
done
[[ $device == cuda || $device == cpu ]] || usage
if [[ ! ${VISIT_LIMITED-} ]]; then
  limited=(--out "$out" --device "$device")
  [[ $wheels ]] && limited+=(--wheels "$wheels")
  VISIT_LIMITED=1 exec timeout --kill-after=10 "$seconds" bash "${BASH_SOURCE[0]##*/../}" "${limited[@]}"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
export TRITON_CACHE_DIR=$folder/triton TORCHINDUCTOR_CACHE_DIR=$folder/inductor
if [[ $wheels ]]; then
  "$python" -m pip --disable-pip-version-check install -q --no-index --no-deps --no-compile --target "$folder/site" \
    "$wheels"/*.whl
  PYTHONPATH=$PYTHONPATH:$folder/site
fi
"$python" -c 'from hpc_bnn.bayes import noise_cpu' 2>/dev/null ||
  "$python" setup.py -q build_ext --inplace --build-temp "$folder/build"

begin=$SECONDS status=0
dry=()
if [[ $device == cpu ]]; then
  dry=(--collect-only -q)
else
  "$python" -m hpc_bnn doctor || true # a machine without MPI is told of it
fi
timeout --kill-after=10 "$tests_seconds" "$python" -m pytest -rs --durations=10 -p no:cacheprovider "${dry[@]}" \
  --device "$device" tests/gpu 2>&1 | tee "$out/tests.log" || status=$?
((status == 0)) || echo "tests/gpu: status $status" >&2
left=$((seconds - 15 - (SECONDS - begin)))
"$python" tests/gpu/figures.py --device "$device" --out "$out" --seconds "$((left - 30))" || status=$?
exit "$status"
