#!/usr/bin/env bash
# hpc_bnn on this machine, from nothing: brings the missing tools, builds build/env, runs what is asked for.
#
#   bash jobscripts/local.sh demo|test|env
#
# Works from any folder. Needs Python >= 3.11; git, a compiler and make are installed with apt-get where
# they are missing and that is allowed; cmake comes from PyPI. The build itself is CMakeLists.txt.
set -euo pipefail

usage() {
  cat >&2 <<'END'
usage: bash jobscripts/local.sh demo|test|env
  demo   train a small Bayesian weather model on two ranks, forecast and score
  test   run all tests
  env    build build/env, the virtual environment, only
END
  exit 2
}

fail() {
  printf 'local.sh: %s\n' "$*" >&2
  exit 1
}

# has_python_311 COMMAND: true if COMMAND is a Python of version 3.11 or newer.
has_python_311() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local name found=()
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    command -v "$name" >/dev/null || continue
    if has_python_311 "$name"; then
      command -v "$name"
      return
    fi
    found+=("$(command -v "$name") ($("$name" --version 2>&1 || true))")
  done
  fail "Python 3.11 or newer is needed; found: ${found[*]:-none on PATH}." \
    "Install python3.11 or load its module, so that python3 or python3.11 is on PATH."
}

# install_packages REASON PACKAGE...: with apt-get, as root or through a sudo that asks nothing.
install_packages() {
  local reason=$1 as_root=()
  shift
  if ! command -v apt-get >/dev/null; then
    fail "$reason; there is no apt-get here. Install what Debian calls $* (or load its module)."
  fi
  if [[ $(id -u) -ne 0 ]]; then
    if ! sudo -n true 2>/dev/null; then
      fail "$reason, and this user may not install it. Run: sudo apt-get install $*"
    fi
    as_root=(sudo -n)
  fi
  printf 'local.sh: %s: installing %s\n' "$reason" "$*" >&2
  if ! { "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "$@"; } >&2; then
    fail "$reason, and apt-get could not install $* (see above)."
  fi
}

has_cmake_325() {
  [[ $(cmake --version 2>/dev/null) =~ ([0-9]+)\.([0-9]+) ]] &&
    ((BASH_REMATCH[1] > 3 || (BASH_REMATCH[1] == 3 && BASH_REMATCH[2] >= 25)))
}

[[ $# -eq 1 ]] || usage
case $1 in
  demo | env) target=$1 ;;
  test) target=check ;;
  *) usage ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(find_python)

missing=()
command -v git >/dev/null || missing+=(git)
command -v make >/dev/null || missing+=(make)
if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then
  missing+=(gcc g++)
fi
# Debian and Ubuntu ship Python in pieces; a Python from elsewhere has these two.
python_package=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("$python_package-venv")
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
  missing+=("$python_package-dev")
if ((${#missing[@]})); then
  install_packages "missing on this machine: ${missing[*]}" "${missing[@]}"
fi

# What only tests use: where it is missing and may not be installed, they are skipped by name.
if [[ $target == check ]] && command -v apt-get >/dev/null &&
  { [[ $(id -u) -eq 0 ]] || sudo -n true 2>/dev/null; }; then
  missing=()
  [[ -x /usr/sbin/slurmctld && -e /usr/lib/$(uname -m)-linux-gnu/pmix2/lib/libpmix.so ]] ||
    missing+=(slurm-wlm munge libpmix-dev)
  command -v shellcheck >/dev/null || missing+=(shellcheck)
  { command -v mksquashfs && command -v squashfuse; } >/dev/null || missing+=(squashfs-tools squashfuse)
  # lmod and environment-modules exclude each other.
  [[ -e /etc/profile.d/lmod.sh || -e /etc/profile.d/modules.sh ]] || missing+=(lmod)
  ((${#missing[@]} == 0)) || (install_packages "for some tests" "${missing[@]}") ||
    printf 'local.sh: their tests will be skipped\n' >&2
fi

if ! has_cmake_325; then
  bootstrap=$PWD/build/bootstrap
  PATH=$bootstrap/bin:$PATH
  if ! has_cmake_325; then
    printf 'local.sh: no cmake >= 3.25 here: taking it from PyPI into build/bootstrap\n' >&2
    "$python" -m venv --clear "$bootstrap"
    "$bootstrap/bin/python" -m pip install -qq --disable-pip-version-check cmake==4.4.4
  fi
fi

cmake -B build -D SITE=local -D Python3_EXECUTABLE="$python"
cmake --build build -t "$target"
