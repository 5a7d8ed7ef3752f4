#!/bin/sh
# `mc ready local`: any HTTP answer means that the server listens.
exec python -c 'import socket; socket.create_connection(("127.0.0.1", 9000), 2)'
