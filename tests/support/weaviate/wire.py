"""One connection: reads requests, lets the server answer them, records both, and spoils answers by rule."""

import json
import select
import socket
import struct
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler

import bodies
from answers import Answer, Refused, Rejected, json_answer
from faults import HTML

KEPT_BODY = 256 * 1024
# Go sends a length with what fits its buffer and chunks the rest.
LONGEST_WITH_LENGTH = 2048


class Request:
    """What a handler needs to know of a request."""

    def __init__(self, method, path, query, headers, body):
        self.method, self.path, self.raw_query, self.headers, self.body = method, path, query, headers, body
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.arguments = []
        self.user = None
        self.connected = lambda: True

    def json(self, required=True):
        """The body, checked as the framework does."""
        return bodies.parse(self.body, self.headers.get("content-type"), required)

    def json_object(self):
        """The body, which must be an object."""
        return bodies.expect_object(self.json())


class Dropped(Exception):
    """The connection is to be reset."""


class Handler(BaseHTTPRequestHandler):
    """The server's side of a connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 120

    def setup(self):
        """A TLS handshake happens here and not where connections are accepted: one that hangs delays nobody."""
        context = self.server.tls
        self.plain = self.request
        if context is not None:
            self.request.settimeout(self.timeout)
            self.request = context.wrap_socket(self.request, server_side=True)
        self.server.double.connections.add(self.plain)
        super().setup()

    def finish(self):
        """Forgets the connection."""
        self.server.double.connections.discard(self.plain)
        try:
            super().finish()
        except OSError:
            pass

    def log_message(self, format, *arguments):
        """The double keeps its own record."""

    def version_string(self):
        """The real server names none."""
        return ""

    def send_response(self, code, message=None):
        """Only the status line and the date."""
        self.send_response_only(code, message)
        self.send_header("Date", self.date_time_string())

    def _body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts = []
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if not size:
                    return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _serve(self):
        double = self.server.double
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, query, headers, self._body())
        request.connected = self._connected
        if path.startswith("/_double/"):
            self._send(double.control.answer(request))
            self.wfile.flush()
            double.begin_restart()
            return
        rule = double.faults.take(request.method, path)
        entry = self._record(request)
        try:
            answer = self._spoilt(rule) if rule and not rule.takes_effect else double.answer(request)
            if rule and rule.kind == "reset_after":
                raise Dropped()
            entry["status"] = answer.status
            if rule and rule.kind == "late":
                time.sleep(rule.seconds)
            self._send(answer, rule)
        except Dropped:
            self._reset()

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _serve

    def _connected(self):
        """Whether the client still waits for its answer."""
        readable, _, _ = select.select([self.plain], [], [], 0)
        if not readable or self.server.tls is not None:
            return True
        try:
            return bool(self.plain.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _record(self, request):
        body = request.body
        entry = {"method": request.method, "path": request.path, "query": request.raw_query,
                 "headers": request.headers, "body": body[:KEPT_BODY].decode("utf-8", "replace"),
                 "body_bytes": len(body), "status": None, "at": time.time()}
        self.server.double.record(entry)
        return entry

    @staticmethod
    def _spoilt(rule):
        """An answer that never came from the server."""
        if rule.kind == "reset_before":
            raise Dropped()
        if rule.kind == "empty":
            return Answer(rule.status or 200)
        if rule.kind == "html":
            status = rule.status or 502
            body = rule.body if rule.body is not None else HTML.format(f"{status} Bad Gateway")
            return Answer(status, body.encode(), content_type="text/html")
        status = rule.status or 500
        if rule.body is None:
            return Refused(status, f"fault {status}").answer()
        return Answer(status, (rule.body if isinstance(rule.body, str) else json.dumps(rule.body)).encode())

    def _send(self, answer, rule=None):
        kind = rule.kind if rule else ""
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        bare = self.command == "HEAD" or answer.status in (204, 304)
        chunked = len(answer.body) >= LONGEST_WITH_LENGTH and not bare
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        if kind == "slow_headers":
            # The status line goes out, the end of the headers comes late.
            start, self._headers_buffer = self._headers_buffer[:1], self._headers_buffer[1:]
            self.wfile.write(b"".join(start))
            self.wfile.flush()
            time.sleep(rule.seconds)
        self.end_headers()
        if bare:
            return
        if kind == "truncated":
            half = answer.body[:len(answer.body) // 2]
            self.wfile.write(b"%x\r\n%s" % (len(answer.body), half) if chunked else half)
            self.wfile.flush()
            self.close_connection = True
            return
        if chunked:
            self.wfile.write(b"%x\r\n" % len(answer.body))
            self.wfile.write(answer.body)
            self.wfile.write(b"\r\n0\r\n\r\n")
        else:
            self.wfile.write(answer.body)

    def _reset(self):
        """An RST instead of an answer."""
        self.close_connection = True
        reset(self.request)


def hang_up(connection):
    """Ends a connection that another thread reads from; that thread does the closing."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def reset(connection):
    """Ends a connection at once, without the polite closing."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    except OSError:
        pass


def dispatch(double, request):
    """Routing, then authentication, then the handler; health is answered before all three."""
    if request.path in ("/v1/.well-known/live", "/v1/.well-known/ready") and request.method == "GET":
        if not request.raw_query:
            ready = request.path.endswith("live") or double.ready
            return Answer(200 if ready else 503, content_type=None)
    try:
        handler, request.arguments = double.routes.find(request.method, request.path)
        if request.path != "/v1/.well-known/openid-configuration":
            request.user = double.access.user(request.headers.get("authorization"))
        if handler is None:
            raise Rejected(501, "this route of Weaviate is not in the double")
        return handler(request)
    except (Refused, Rejected) as error:
        return error.answer()
    except Exception as error:
        double.note_exception()
        return json_answer({"error": [{"message": f"the double itself failed: {error!r}"}]}, 500)
