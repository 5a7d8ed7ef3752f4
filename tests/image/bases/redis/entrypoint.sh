#!/bin/sh
# Redis without a password refuses other hosts unless it is told otherwise.
[ "$1" != redis-server ] || set -- "$@" --protected-mode no
exec "$@"
