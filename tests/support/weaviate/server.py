"""The double itself: its parts, its listener, and what a restart does to them."""

import http.server
import socket
import ssl
import sys
import threading
import traceback

import wire
from access import Access
from answers import Refused
from backup_routes import BackupRoutes
from batches import Batches
from clock import Clock, stamp
from control import Control
from counting import Counting
from database import Database
from faults import Faults
from journal import Journal
from objects import Objects
from operations import Slot
from routes import Routes
from schema import Schema
from stores import StoreError
from versions import Version

CLEAN_UP_AFTER = 1.0


class Listener(http.server.ThreadingHTTPServer):
    """Accepts connections; a new one is made after every simulated restart."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address, double, tls):
        self.double = double
        self.tls = tls
        self.serves = False
        super().__init__(address, wire.Handler, bind_and_activate=False)
        self.server_bind()

    def server_bind(self):
        """Without the look-up of the host's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        """Clients that go away or fail a handshake are no news; mistakes of the double go to the log."""
        if not isinstance(sys.exc_info()[1], OSError):
            self.double.note_exception()


class Double:
    """A Weaviate of one version, on one port."""

    def __init__(self, version, modules=(), stores=(), node="node1", nodes=1, time_scale=1.0, access=None,
                 tls=None, state=None, log=None):
        self.version = Version(version)
        self.modules, self.node, self.nodes = list(modules), node, nodes
        self.stores = {store.name: store for store in stores}
        self.clock = Clock(time_scale)
        self.access = Access(self.version, **(access or {}))
        self.tls = tls
        self.log = open(log, "a", encoding="utf-8") if log else None
        self.database = Database()
        self.journal = Journal(state, self.database) if state else None
        self.slots = {"backup": Slot("backup"), "restore": Slot("restore")}
        self.faults, self.requests, self.connections = Faults(), [], set()
        self.objects, self.batches, self.schema = Objects(self), Batches(self), Schema(self)
        self.counting, self.backup_routes = Counting(self), BackupRoutes(self)
        self.routes, self.control = Routes(self), Control(self)
        self.ready = True
        self.coming_restart = None
        self.lock, self.restarting = threading.Lock(), threading.Lock()
        self.listener = None
        self.port = None

    @property
    def store_status(self):
        """Refusals of a store or a node: 422, in the newest versions 500."""
        return 500 if self.version.has("store_faults_are_500") else 422

    def module_meta(self):
        """The modules as `/v1/meta` lists them."""
        found = {name: {"name": name} for name in self.modules if not name.startswith("backup-")}
        found.update({"backup-" + store.name: store.meta() for store in self.stores.values()})
        return dict(sorted(found.items()))

    def refuse_cluster(self, store):
        """A directory on one disk is no place for the backup of several nodes."""
        if store.name == "filesystem" and self.nodes > 1:
            raise Refused(422, "local filesystem backend is not viable for backing up a node cluster, try s3 or gcs")

    def place(self, config):
        """Where a request wants its backup: overrides exist from 1.27.2 on."""
        if not self.version.has("location"):
            return {}
        chosen = {"bucket": config.get("Bucket"), "path": config.get("Path")}
        return {name: value for name, value in chosen.items() if value}

    def answer(self, request):
        """Answers a request of the API."""
        return wire.dispatch(self, request)

    def record(self, entry):
        """Keeps a request for tests."""
        with self.lock:
            self.requests.append(entry)
        self.note(f"{entry['method']} {entry['path']}")

    def note(self, text):
        """A line in the log."""
        if self.log:
            self.log.write(text + "\n")
            self.log.flush()

    def note_exception(self):
        """A mistake of the double, in the log or on standard error."""
        text = traceback.format_exc()
        if self.log:
            self.note(text)
        else:
            sys.stderr.write(text)

    def start(self, port):
        """Opens the listener; cleans up what an earlier process of this server left running."""
        self.listener = Listener(("127.0.0.1", port), self, self.tls)
        self.port = self.listener.server_port
        self._listen(self.listener)
        threading.Thread(target=self._clean_up, args=(stamp(),), daemon=True).start()

    @staticmethod
    def _listen(listener):
        listener.server_activate()
        listener.serves = True
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def _clean_up(self, began):
        """From 1.27.4 on, backups that never ended become CANCELED soon after the start."""
        if not self.version.has("restart_cancels"):
            return
        for store in self.stores.values():
            try:
                self.backup_routes.backups.clean_up(store, began)
            except StoreError as error:
                self.note(f"clean-up: {error}")

    def restart(self, down, unready):
        """The listener closes, what runs is forgotten, and after a while the server is back and then ready."""
        self.ready = False
        for slot in self.slots.values():
            slot.forget()
        self.coming_restart = (down, unready)

    def begin_restart(self):
        """Starts the restart that was asked for; the answer to the asking is sent by now."""
        with self.lock:
            times, self.coming_restart = self.coming_restart, None
        if times:
            threading.Thread(target=self._restart, args=times, daemon=True).start()

    def _restart(self, down, unready):
        with self.restarting:
            self.ready = False
            self.listener.shutdown()
            self.listener.server_close()
            # Bound but not listening: connections are refused, and nobody else can take the port.
            self.listener = Listener(("127.0.0.1", self.port), self, self.tls)
            for connection in list(self.connections):
                wire.hang_up(connection)
            pause = threading.Event()
            pause.wait(self.clock.real(down))
            began = stamp()
            self._listen(self.listener)
            pause.wait(self.clock.real(unready))
            self.ready = True
            pause.wait(self.clock.real(CLEAN_UP_AFTER))
            self._clean_up(began)

    def stop(self):
        """Ends the listener and writes the state down."""
        if self.listener.serves:
            self.listener.shutdown()
        self.listener.server_close()
        if self.journal:
            self.journal.compact()


def tls_context(certificate, key, client_ca=None):
    """TLS for the listener; with a CA for clients their certificate is required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
