"""A front that speaks TLS before a server that does not, and wants a certificate of its clients.

    tls_front.py HOST:PORT      with server.crt, server.key and the clients' ca.crt in the working folder

Says its own port, and ends when its standard input does.
"""

import asyncio
import ssl
import sys


async def pass_on(reader, writer):
    """Bytes of one direction, to the end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # the other direction ends as well
    writer.close()


async def main(server):
    host, port = server.split(":")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile="ca.crt")
    tls.load_cert_chain("server.crt", "server.key")
    tls.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader, writer):
        there, to = await asyncio.open_connection(host, port)
        await asyncio.gather(pass_on(reader, to), pass_on(there, writer))

    front = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    print(front.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main(sys.argv[1]))
