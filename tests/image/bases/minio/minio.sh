#!/bin/sh
# `minio server FOLDER`
set -eu
folder=$2
juicefs format "sqlite3://$folder/meta.db" lab --storage file --bucket "$folder/data/" --no-update
exec juicefs gateway --multi-buckets --keep-etag --no-banner --no-usage-report --cache-dir "$folder/cache" --log "$folder/log" "sqlite3://$folder/meta.db" 0.0.0.0:9000
