# Shared by the scripts: makes a virtual environment once and installs this checkout into it. Sourced, not run.

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# find_python: a Python that the project supports, from $PYTHON or the usual names.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3 python3.13; do
    if "$candidate" -c 'import sys; sys.exit(not sys.version_info >= (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and was not found: install it (Debian 12: apt install python3 python3-venv), or set PYTHON."
}

# make_environment FOLDER PYTHON REQUIREMENT...: create FOLDER if it is missing, install what changed.
make_environment() {
  local folder=$1 python=$2 stamp
  shift 2
  stamp=$(printf '%s\n' "$@" | cat - pyproject.toml $(kernel_sources) | cksum)
  if [ -f "$folder/.espalier-installed" ] && [ "$(cat "$folder/.espalier-installed")" = "$stamp" ]; then
    return
  fi
  say "installing into $folder (once) ..."
  if [ ! -x "$folder/bin/python" ]; then
    "$python" -m venv "$folder" || fail "$python cannot make virtual environments: install its venv module (Debian: apt install python3-venv)."
  fi
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2 || fail "the installation into $folder failed; the reason is above."
  printf '%s\n' "$stamp" > "$folder/.espalier-installed"
}

# KERNELS: what `make_environment` installs so that engine `sparse` runs: compiled here, by this machine's compiler or,
# where it has none, by one from the package index.
KERNELS=./device_runtime/kernels

kernel_sources() {
  find "$KERNELS" -type f ! -name '*.so' ! -path '*__pycache__*' | sort
}

# find_mirror: $ESPALIER_DEBIAN_MIRROR, or the archive that this Debian already uses; nothing where there is none.
find_mirror() {
  local codename
  if [ -n "${ESPALIER_DEBIAN_MIRROR:-}" ]; then
    printf '%s\n' "$ESPALIER_DEBIAN_MIRROR"
    return
  fi
  codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && printf '%s' "${VERSION_CODENAME:-}") || return 0
  { apt-get update --print-uris -o Debug::NoLocking=1 2> /dev/null || true; } |
    sed -n "s|^'\(.*[^/]\)/*/dists/$codename/InRelease'.*|\1|p" | sed -n 1p # not q: apt-get would die of the closed pipe
}
