#!/usr/bin/env bash
# Runs the tests with each supported TensorFlow, and for each with the oldest and the newest supported Keras.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

usage() {
  cat <<'USAGE'
Usage: scripts/test_versions.sh [--tensorflow "X ..."] [--keras "Y ..."] [--quick] [--append FILE] [--folder FOLDER]
                                [-- PYTEST ARGUMENTS]

For each TensorFlow (its newest patch release) and each Keras that setup.cfg allows, creates a virtual environment with
hvdkit and its test dependencies, builds Horovod for it, runs tests, and prints a table. A second call reuses the
environments, and every Horovod that was built for the same TensorFlow. An environment takes about 2 GB, and a build takes
a few minutes.

  --tensorflow "2.16 2.21"   only these (default: all that setup.cfg allows)
  --keras "oldest newest"    only these; may also contain versions such as 3.14.1 (default: both)
  --quick                    the only tests with ranks are tests/equivalence, over Gloo and on replicas
  --append FILE              append the rows of the table to this file
  --folder FOLDER            where the environments are (default: hvdkit/versions in ~/.cache)
  -- ARGUMENTS               what pytest runs (default: the tests without ranks, then tests/equivalence,
                             tests/callbacks/test_consistency_check_ranks.py and tests/data/test_data_ranks.py)

The exit code is the number of combinations in which something failed.

Example: scripts/test_versions.sh --tensorflow 2.16 --keras oldest -- -m "not dist"
USAGE
}

# setup.cfg contains the supported versions: "tensorflow-cpu>=2.16,<2.22" and "keras>=3.13.2,<3.16".
range=$(sed -n 's/^cpu = tensorflow-cpu>=2\.\([0-9]*\),<2\.\([0-9]*\)$/\1 \2/p' setup.cfg)
oldest=$(sed -n 's/^ *keras>=\([0-9.]*\),<[0-9.]*$/\1/p' setup.cfg)
[ -n "$range" ] && [ -n "$oldest" ] || die "setup.cfg does not say which TensorFlow and Keras are allowed."
tensorflows=$(seq -f '2.%g' "${range% *}" $((${range#* } - 1)))
kerases="oldest newest" append= quick=
folder=${XDG_CACHE_HOME:-$HOME/.cache}/hvdkit/versions
while [ $# -gt 0 ]; do
  case $1 in
    --tensorflow) tensorflows=${2:-} && shift ;;
    --keras) kerases=${2:-} && shift ;;
    --quick) quick=1 ;;
    --append) append=${2:-} && shift ;;
    --folder) folder=${2:-} && shift ;;
    --) shift && break ;;
    -h | --help) usage && exit 0 ;;
    *) printf 'error: unknown argument %s\n\n' "$1" >&2 && usage >&2 && exit 2 ;;
  esac
  [ $# -gt 0 ] && shift
done
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || die "cannot make $folder"
python=$(find_python) || exit
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}

# row FOLDER FILE...: a line of the table, from the environment's versions and what pytest wrote
row() {
  "$1/bin/python" - "${@:2}" <<'ROW'
import datetime, os, platform, sys
import xml.etree.ElementTree as xml
from importlib.metadata import version

totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
for file in sys.argv[1:]:
    if not os.path.exists(file):
        sys.exit("error: pytest did not run; its own message is above.")
    for suite in xml.parse(file).iter("testsuite"):
        for name in totals:
            totals[name] += int(suite.get(name))
failed = totals["failures"] + totals["errors"]
passed = totals["tests"] - failed - totals["skipped"]
cells = [version("tensorflow-cpu"), version("keras"), version("numpy"), platform.python_version()]
cells += [passed, failed, totals["skipped"], datetime.date.today()]
print("|", " | ".join(map(str, cells)), "|")
sys.exit(failed > 0)
ROW
}

# tried NAME TENSORFLOW KERAS ARGUMENT...: makes the environment, runs the tests, says the row
tried() {
  local name=$1 tensorflow=$2 keras=$3 here=$folder/$1
  shift 3
  say "TensorFlow $tensorflow, Keras $keras: $here"
  if ! environment "$here" "$python" "tensorflow-cpu==$tensorflow.*" "keras$keras" --editable '.[cpu,dev,examples,mpi]'; then
    echo "| $tensorflow | $keras | - | $("$python" -V | cut -d' ' -f2) | does not install | - | - | $(date +%F) |"
    return 1
  fi
  if ! PATH=$here/bin:$PATH hvdkit install-horovod --with mpi >&2; then
    echo "| $tensorflow | $keras | - | $("$python" -V | cut -d' ' -f2) | Horovod does not build | - | - | $(date +%F) |"
    return 1
  fi
  rm -f "$here"/tests.*.xml
  if [ $# -gt 0 ]; then
    pytest "$here" 1 "$@"
  else
    pytest "$here" 1 -m 'not dist'
    if [ -n "$quick" ]; then
      pytest "$here" 2 -m dist tests/equivalence -k 'gloo or test_strategies'
    else
      pytest "$here" 2 -m dist tests/equivalence tests/callbacks/test_consistency_check_ranks.py tests/data/test_data_ranks.py
    fi
  fi
  row "$here" "$here"/tests.*.xml
}

pytest() { # pytest FOLDER NUMBER ARGUMENT...: with the environment's programs first on the path; to stderr
  PATH=$1/bin:$PATH "$1/bin/python" -m pytest --junitxml="$1/tests.$2.xml" "${@:3}" >&2
}

head='| TensorFlow | Keras | NumPy | Python | passed | failed | skipped | date |
|---|---|---|---|---|---|---|---|'
rows=() failed=0
for tensorflow in $tensorflows; do
  for keras in $kerases; do
    case $keras in
      oldest) wanted="==$oldest" ;;
      newest) wanted= ;; # the newest that setup.cfg allows
      *) wanted="==$keras" ;;
    esac
    line=$(tried "$tensorflow-$keras" "$tensorflow" "$wanted" "$@") || failed=$((failed + 1))
    rows+=("$line")
    [ -n "$append" ] && printf '%s\n' "$line" >>"$append"
  done
done
printf '%s\n' "$head" "${rows[@]}"
exit "$failed"
