"""A TCP line between workers and a server, which can be cut, become a black hole, be slow, or stop at a word."""

import asyncio
import threading

SLOW = 64 * 1024  # bytes a second and direction


class Line:
    """Listens on a free port and passes on to `target`, which may change."""

    def __init__(self, target):
        self.target, self.port, self.mode, self.open = target, None, "clear", set()
        self.trap, self.word, self.caught = None, None, threading.Event()
        self.loop, ready = asyncio.new_event_loop(), threading.Event()
        threading.Thread(target=self.serve, args=(ready,), daemon=True).start()
        ready.wait()

    def serve(self, ready):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self.accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()

    async def accept(self, reader, writer):
        self.open.add(writer)
        try:
            await self.passable()
            if writer.is_closing():  # cut meanwhile: what it has sent is lost
                self.open.discard(writer)
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        self.open.add(far_writer)
        ways = [self.carry(reader, far_writer), self.carry(far_reader, writer)]
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, far_writer):
            self.open.discard(end)
            end.close()

    async def carry(self, reader, writer):
        try:
            while data := await reader.read(16 * 1024):
                if found := self.trap and self.trap.search(data):
                    # For ever: what is caught never arrives, whatever becomes of the line.
                    self.mode, self.trap, self.word = "hole", None, found[1]
                    self.caught.set()
                    break
                await self.passable()
                if self.mode == "slow":
                    await asyncio.sleep(len(data) / SLOW)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def passable(self):
        while self.mode == "hole":
            await asyncio.sleep(0.05)

    def catch(self, trap):
        """Becomes a black hole at the first message in which this expression is found; an event that is set then. `word` is its first group."""
        self.caught, self.trap = threading.Event(), trap
        return self.caught

    def cut(self):
        """Ends every connection there is, in the middle of whatever passes. Whether there was one."""
        is_open = bool(self.open)
        self.loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self.open)])
        return is_open
