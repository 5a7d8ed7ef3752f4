"""A Celery client that programs can talk to: one JSON object a line in, JSON objects out.

    python client.py BROKER_URL [REQUEST ...]

Requests come as arguments, or, without any, as lines of standard input until it ends. Each is answered by one line,
`watch` by one line a state; the last line of an answer has "done": true. It runs under every version of Celery that
the app may have, with the app's own settings and tasks (tests/webapp). A socket is `redis+socket:///path?virtual_host=0`.

    {"do": "send", "task": NAME, "args": [], "kwargs": {}, "options": {}}   -> {"id"}
        .delay() when there are no options, else .apply_async(); send_task() for names that the app does not know
    {"do": "get", "id": ID, "timeout": 60}
        -> {"state", "value"} or {"state", "error": {"class", "module", "text", "args"}, "traceback"};
           both with "date_done" and "children" (ids). "state" null: nothing came in time
    {"do": "canvas", "expression": CANVAS}      -> {"id", "members" (ids, of a group)}: CANVAS.apply_async()
        an expression of chain, group, chord, signature, py.NAME (api.canvas.tasks), ours(NAME, *ARGS), a signature of
        api.backup.canvas.NAME, and stamped(CANVAS), which stamps it with tenant=acme; "get" waits for its result too, and raises what failed before its last task, unless
        it is asked for "alone": true
    {"do": "watch", "id": ID, "timeout": 60}    -> each new {"state", "meta"} as it comes, the final one done
    {"do": "ping", "count": 1, "queue": "backups"}   -> {"values", "milliseconds"}: celery.ping, one after the other
    {"do": "control", "method": NAME, "arguments": {}, "destination": null, "pattern": null, "timeout": 1, "limit": null}
        -> {"replies"}:
        app.control.broadcast(), the way of Flower and exporters: a list of {node: reply}; patterns are globs
    {"do": "cli", "args": ["inspect", "ping"]}  -> {"code", "out", "err"} of `celery -A rna_backend inspect ping`
    {"do": "version"}                           -> {"celery", "kombu", "redis", "python"}
"""

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path


def connect(broker_url):
    os.environ["REDIS_URL"] = broker_url
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "webapp"))
    from rna_backend.celery import app

    app.loader.import_default_modules()  # so that app.tasks knows the app's own
    return app


def send(app, request):
    name, options = request["task"], request.get("options") or {}
    args, kwargs = request.get("args") or [], request.get("kwargs") or {}
    task = app.tasks.get(name)
    if task is None:
        result = app.send_task(name, args, kwargs, **options)
    elif options:
        result = task.apply_async(args, kwargs, **options)
    else:
        result = task.delay(*args, **kwargs)
    yield {"id": result.id}


CANVASES = {}  # results by id: a group's cannot be had from its id alone


def canvas(app, request):
    from api.canvas import tasks as py
    from celery import chain, chord, group, signature

    def ours(name, *args, **options):
        return signature(f"api.backup.canvas.{name}", args=args, options=options)

    def stamped(sig):
        sig.stamp(tenant="acme")
        return sig

    names = {"chain": chain, "chord": chord, "group": group, "signature": signature, "py": py, "ours": ours, "stamped": stamped}
    result = eval(request["expression"], names).apply_async()
    CANVASES[result.id] = result
    yield {"id": result.id, "members": [member.id for member in getattr(result, "results", [])]}


def get(app, request):
    from celery.exceptions import TimeoutError

    result = not request.get("alone") and CANVASES.get(request["id"]) or app.AsyncResult(request["id"])
    answer = {"id": result.id}
    try:
        answer["value"] = result.get(timeout=request.get("timeout", 60))
    except TimeoutError as late:
        if not result.ready():
            app.backend.remove_pending_result(result)  # else its destructor complains when Python ends
            yield answer | {"state": None, "error": described(late), "children": []}
            return
        answer["error"] = described(late)  # the task itself ended in a TimeoutError
    except BaseException as error:  # AsyncResult.get raises what the task raised: any class there is
        answer["error"] = described(error)
    if hasattr(result, "results"):  # a group: nothing more is known of it as a whole
        yield answer
        return
    answer["state"] = result.state
    answer["traceback"] = result.traceback
    answer["date_done"] = result.date_done and result.date_done.isoformat()
    answer["children"] = [child.id for child in result.children or []]
    yield answer


def described(error):
    kind = type(error)
    return {"class": kind.__name__, "module": kind.__module__, "text": str(error), "args": [repr(a) for a in error.args]}


def watch(app, request):
    """Every state that is published, in order. Reads the channel itself: AsyncResult would show only the latest."""
    deadline = time.monotonic() + request.get("timeout", 60)
    backend = app.backend
    key = backend.get_key_for_task(request["id"])
    channel = backend.client.pubsub()
    channel.subscribe(key)
    seen = None
    while time.monotonic() < deadline:
        message = channel.get_message(timeout=0.1)
        if message:
            stored = message["type"] == "message" and message["data"]
        else:  # quiet: it may have ended before we listened
            stored = seen is None and backend.client.get(key)
        if not stored or stored == seen:
            continue
        seen, meta = stored, backend.decode(stored)
        done = meta["status"] in ("SUCCESS", "FAILURE", "REVOKED")
        yield {"id": request["id"], "state": meta["status"], "meta": meta["result"], "done": done}
        if done:
            break
    else:
        yield {"id": request["id"], "state": None, "done": True}
    channel.close()


def ping(app, request):
    values, milliseconds = [], []
    for _ in range(request.get("count", 1)):
        began = time.perf_counter()
        result = app.send_task("celery.ping", queue=request.get("queue", "backups"))
        values.append(result.get(timeout=request.get("timeout", 60)))
        milliseconds.append((time.perf_counter() - began) * 1000)
    yield {"values": values, "milliseconds": milliseconds}


def control(app, request):
    pattern = request.get("pattern")
    yield {
        "replies": app.control.broadcast(
            request["method"],
            arguments=request.get("arguments") or {},
            destination=request.get("destination"),
            pattern=pattern,
            matcher=pattern and "glob",
            timeout=request.get("timeout", 1),
            limit=request.get("limit"),
            reply=True,
        )
    }


def cli(app, request):
    """The command itself, in a child that has its modules already: a Python of its own takes a second to start."""
    import celery.bin.celery  # noqa: F401
    import kombu.transport.redis  # noqa: F401

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(command(["celery", "-A", "rna_backend", *request["args"]]))
        _, status = os.waitpid(child, 0)
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
    yield {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}


def command(argv):
    from celery.__main__ import main

    sys.argv = argv
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def version(app, request):
    import celery
    import kombu
    import redis

    yield {
        "celery": celery.__version__,
        "kombu": kombu.__version__,
        "redis": redis.__version__,
        "python": sys.version.split()[0],
    }


ANSWERS = {
    "send": send,
    "canvas": canvas,
    "get": get,
    "watch": watch,
    "ping": ping,
    "control": control,
    "cli": cli,
    "version": version,
}


def answer(app, line):
    try:
        request = json.loads(line)
        answers = ANSWERS[request["do"]](app, request)
        for reply in answers:
            show({"done": True} | reply)
    except Exception as error:  # the asker decides; a dead client would only hide what happened
        show({"done": True, "failed": described(error)})


def show(reply):
    print(json.dumps(reply, default=repr), flush=True)


def main():
    broker_url, *requests = sys.argv[1:] or sys.exit(__doc__)
    app = connect(broker_url)
    for line in requests or sys.stdin:
        answer(app, line)
    CANVASES.clear()  # their destructors need a Python that is whole


if __name__ == "__main__":
    main()
