# Sourced by the other scripts.
#
#   prepare EXTRAS [--with mpi | --without-horovod]
#                                           e.g. prepare cpu,examples: creates .venv with hvdkit, TensorFlow and Horovod,
#                                           or reuses it
#   environment FOLDER PYTHON PACKAGE...    creates or updates any other virtual environment with these packages

say() { if [ -t 2 ]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

find_python() { # the first Python from 3.11 to 3.13 that can make a virtual environment
  local candidate
  for candidate in ${HVDKIT_PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python from 3.11 to 3.13 with the venv module was found.
  What to do: install one (Debian and Ubuntu: apt-get install python3-venv), or set HVDKIT_PYTHON to its path."
}

environment() {
  local folder=$1 python=$2
  shift 2
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder" || return
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

prepare() {
  local extras=$1 want stamp=.venv/.hvdkit-environment python
  shift
  # What the environment was made from; a second call with the same answer installs nothing.
  want="$extras $(cat setup.cfg pyproject.toml hvdkit/version.py | cksum)"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
    if ! .venv/bin/python -c 'pass' 2>/dev/null; then
      python=$(find_python)
      say "creating .venv with $("$python" --version) and installing hvdkit[$extras] (TensorFlow is about 250 MB)"
      rm -rf .venv
      "$python" -m venv .venv || die "$python could not create .venv.
  What to do: rm -rf .venv and run this again; Debian and Ubuntu need apt-get install python3-venv."
    else
      say "updating .venv to hvdkit[$extras]"
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" ||
      die "pip could not install hvdkit[$extras]; its own message is above."
    printf '%s' "$want" >"$stamp"
  fi
  [ "${1:-}" = --without-horovod ] || .venv/bin/hvdkit install-horovod "$@"
}
