#!/usr/bin/env bash
# Installs what the make targets need, and only what is missing; quick and silent when all is there.
#
#   install.sh debian COMMAND:PACKAGE ...   Debian packages whose COMMAND (or path pattern) is not found
#   install.sh venv NAME ...                target/venv/NAME from tests/support/NAME.txt
set -euo pipefail

cd "$(dirname "$0")/../.."

say() { printf '%s\n' "$*" >&2; }

debian() {
  local missing=() pair
  for pair in "$@"; do
    compgen -G "${pair%%:*}" >/dev/null || command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "Missing: ${missing[*]} (names of Debian packages). Please install them; this machine has no apt-get."
    exit 1
  fi
  say "Installing Debian packages: ${missing[*]}"
  local root=()
  [ "$(id -u)" -eq 0 ] || root=(sudo)
  # Packages of servers start them and enable them at boot. We start our own, in our own folders:
  # what comes with the package stays off. Servers that were here before are not touched.
  local policy=/usr/sbin/policy-rc.d ours=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
    ours=$policy
  fi
  local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300)
  local done=yes
  { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } </dev/null >&2 || done=no
  [ -z "$ours" ] || "${root[@]}" rm -f "$ours"
  [ "$done" = yes ] || { say "apt-get could not install: ${missing[*]}"; exit 1; }
  local package
  for package in "${missing[@]}"; do
    case $package in
      redis-server | postgresql | prometheus)
        if [ -d /run/systemd/system ]; then "${root[@]}" systemctl disable --quiet "$package" || true; fi ;;
    esac
  done
}

# A virtual environment is good while its stamp names this content of the requirements and this place:
# a venv that was moved holds scripts that point elsewhere.
venv() {
  local name requirements folder stamp
  for name in "$@"; do
    requirements=tests/support/$name.txt folder=target/venv/$name
    stamp=$(printf '%s %s' "$(sha256sum <"$requirements")" "$PWD/$folder")
    [ "$(cat "$folder/stamp" 2>/dev/null)" != "$stamp" ] || continue
    say "Making the Python environment $folder"
    rm -rf "$folder"
    mkdir -p target/venv
    "${PYTHON:-/usr/bin/python3}" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -r "$requirements" </dev/null
    printf '%s' "$stamp" >"$folder/stamp"
  done
}

what=${1:-}
shift || true
case $what in
  debian) debian "$@" ;;
  venv) venv "$@" ;;
  *) say "usage: install.sh debian COMMAND:PACKAGE ... | venv NAME ..."; exit 2 ;;
esac
