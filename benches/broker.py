"""Redis spoken to without a library in between, and a queue that is full before any worker starts."""

import json
import socket
import time
import uuid
from datetime import datetime, timezone


class Link:
    """A bare connection: commands in one write, their replies in order."""

    def __init__(self, redis):
        self.socket = socket.create_connection(("127.0.0.1", redis.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.socket.makefile("rb")
        self.call(["AUTH", redis.password])

    def call(self, *commands):
        self.send(*commands)
        return [self.reply() for _ in commands]

    def send(self, *commands):
        out = bytearray()
        for command in commands:
            out += b"*%d\r\n" % len(command)
            for part in command:
                part = part if isinstance(part, bytes) else str(part).encode()
                out += b"$%d\r\n%s\r\n" % (len(part), part)
        self.socket.sendall(out)

    def reply(self):
        line = self.replies.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self.replies.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind in (b":", b"+"):
            return int(rest) if kind == b":" else rest
        raise RuntimeError(f"Redis answers {line!r}")


class Ping:
    """`celery.ping` messages: copies, each of its own id, of one that a real client has sent to `queue`."""

    def __init__(self, link, client, queue):
        self.queue = queue
        self.id = client.ask(do="send", task="celery.ping", options={"queue": queue})["id"].encode()
        self.text = link.call(["RPOP", queue])[0]
        self.tag = json.loads(self.text)["properties"]["delivery_tag"].encode()

    def copy(self):
        """The id and the text of a new message."""
        own = str(uuid.uuid4())
        return own, self.text.replace(self.id, own.encode()).replace(self.tag, str(uuid.uuid4()).encode())

    def prepare(self, link, count):
        """Lays so many messages aside; their ids."""
        ids = []
        for at in range(0, count, 1000):
            copies = [self.copy() for _ in range(min(1000, count - at))]
            link.call(*(["LPUSH", f"{self.queue}-aside", text] for _, text in copies))
            ids += [own for own, _ in copies]
        return ids

    def release(self, link):
        """Makes what lies aside the queue, all at once, and sends one more as senders do, to wake whoever waits; its id."""
        own, text = self.copy()
        link.call(["RENAME", f"{self.queue}-aside", self.queue], ["LPUSH", self.queue, text])
        return own

    def latency(self, link, listener, count):
        """Milliseconds from LPUSH to the published SUCCESS; `listener` is a connection that subscribes to nothing else."""
        listener.call(["PSUBSCRIBE", "celery-task-meta-*"])
        measured = []
        for _ in range(count):
            own, text = self.copy()
            began = time.perf_counter()
            link.send(["LPUSH", self.queue, text])
            while True:
                *_, channel, published = listener.reply()
                if channel.endswith(own.encode()) and b'"SUCCESS"' in published:
                    break
            measured.append((time.perf_counter() - began) * 1000)
            link.reply()
        listener.call(["PUNSUBSCRIBE"])
        return measured


def round_trips(link, count):
    """Milliseconds of PING: what Redis and the way to it cost by themselves."""
    measured = []
    for _ in range(count):
        began = time.perf_counter()
        link.call(["PING"])
        measured.append((time.perf_counter() - began) * 1000)
    return measured


def ended(link, queue, ids):
    """When each of these ended, by its own result, as sorted epoch seconds; None while not all have."""
    if link.call(["LLEN", queue], ["HLEN", "unacked"]) != [0, 0]:
        return None
    times = []
    for at in range(0, len(ids), 1000):
        (found,) = link.call(["MGET", *(f"celery-task-meta-{own}" for own in ids[at : at + 1000])])
        if None in found:
            return None
        for result in map(json.loads, found):
            if result["status"] != "SUCCESS":
                raise RuntimeError(f"a ping ended as {result}")
            when = datetime.fromisoformat(result["date_done"])  # Celery 5.3 writes naive UTC
            times.append((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp())
    return sorted(times)
