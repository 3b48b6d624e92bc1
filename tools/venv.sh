#!/bin/sh
# Make the virtual environment DIR. A bare Debian or Ubuntu has python3 without ensurepip: with root rights the
# missing package is installed, without them the message says what to type.
set -eu
dir=$1
fail() { printf '%s\n' "$@" >&2; exit 1; }

command -v python3 >/dev/null || fail "python3 is missing: sudo apt-get install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$(python3 --version) is too old: the reconciler needs Python 3.11 or newer (Debian 12, Ubuntu 24.04)"
command -v git >/dev/null || fail "git is missing: sudo apt-get install git"

if ! python3 -c 'import ensurepip' 2>/dev/null; then
  package=$(python3 -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
  sudo=
  [ "$(id -u)" = 0 ] || sudo="sudo -n"
  echo "python3 has no venv support: installing $package" >&2
  { $sudo apt-get update -q && $sudo apt-get install -yq --no-install-recommends "$package"; } >&2 ||
    fail "" "please install it yourself, then try again: sudo apt-get install $package"
fi
rm -rf "$dir"
python3 -m venv "$dir"
