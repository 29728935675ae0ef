#!/usr/bin/env bash
# Creates .venv and builds Horovod if they are missing, and runs the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'USAGE'
Usage: scripts/test.sh [fast|dist|all|chaos] [pytest arguments]

  fast   the tests that need no ranks: seconds to a minute
  dist   the tests that start real ranks (horovodrun, mpirun)
  all    both (the default)
  chaos  many repetitions of kills, damage, full disks, resumes, uneven data and large batches: two hours

Most ranks that the tests start are forks of a process that has imported TensorFlow (tests/forkserver).
HVDKIT_TESTS_FORKSERVER=0 starts a new process for each rank, which takes longer. Two test files run at a time
(HVDKIT_TESTS_WORKERS sets the number; 0 is one process). Tests that measure time or load run before them, alone.

Example: scripts/test.sh dist -k consistency
USAGE
}

which=all
case ${1:-} in
  fast | dist | all | chaos) which=$1 && shift ;;
  -h | --help) usage && exit 0 ;;
  -* | '') ;;
  *) printf 'error: unknown argument %s\n\n' "$1" >&2 && usage >&2 && exit 2 ;;
esac

. scripts/environment.sh
extras=cpu,examples,dev
with=()
if command -v mpicxx >/dev/null || [ -x .venv/bin/mpicxx ] || [ "$(uname -s)" = Linux ]; then
  command -v mpicxx >/dev/null || extras=$extras,mpi
  with=(--with mpi) # mpirun is tested too
fi
prepare "$extras" "${with[@]}"

marks=()
kind=
case $which in
  fast) kind=" and not dist" ;;
  dist) kind=" and dist" ;;
  chaos)
    export HVDKIT_CHAOS=long
    marks=(tests/chaos tests/data/test_data_ranks.py tests/comm/test_engines_ranks.py tests/checkpoint/test_resume_ranks.py tests/equivalence tests/schedules -o timeout=7200)
    ;;
esac
say "pytest, $which"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
[ "$which" != chaos ] || exec .venv/bin/python -m pytest "${marks[@]}" "$@"
alone=0 rest=0
.venv/bin/python -m pytest -m "alone$kind" "$@" || alone=$?
say "pytest, $which: the rest, ${HVDKIT_TESTS_WORKERS:-2} at a time"
.venv/bin/python -m pytest -m "not alone$kind" -n "${HVDKIT_TESTS_WORKERS:-2}" --dist loadfile "$@" || rest=$?
# 5: none of the tests that were asked for is in this part, so the other one answers for both.
case $alone,$rest in
  5,*) exit $rest ;;
  *,5 | *,0) exit $alone ;;
  *) exit $rest ;;
esac
