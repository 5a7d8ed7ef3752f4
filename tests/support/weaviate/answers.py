"""Answers and refusals in the two shapes of the real server.

Handlers say `{"error":[{"message":…}]}`; the framework (routes, authentication, body checks) says
`{"code":…,"message":…}`.
"""

import json
import random

JSON_TYPE = "application/json"


class Answer:
    """A status, bytes and headers, ready to be sent."""

    def __init__(self, status, body=b"", headers=(), content_type=JSON_TYPE):
        self.status = status
        self.body = body
        self.headers = list(headers)
        if content_type:
            self.headers.append(("Content-Type", content_type))


def json_answer(value, status=200):
    """A value as JSON without spaces, as Go writes it."""
    return Answer(status, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def accepted(backend, store, id, place, names):
    """That a backup or a restore of these classes, told in no order, was accepted."""
    answer = {"backend": backend, "classes": random.sample(names, len(names)), "id": id, "path": store.home(id, place),
              "status": "STARTED"}
    if place.get("bucket"):
        answer["bucket"] = place["bucket"]
    return json_answer(answer)


def text_answer(text, status=200):
    """JSON that was put together as text already."""
    return Answer(status, text.encode())


class Refused(Exception):
    """An error of a handler."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status
        self.message = message

    def answer(self):
        """The answer in the handlers' shape."""
        return json_answer({"error": [{"message": self.message}]}, self.status)


class Rejected(Exception):
    """An error of the framework in front of the handlers."""

    def __init__(self, status, message, code=None, headers=(), content_type=JSON_TYPE):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = status if code is None else code
        self.headers = headers
        self.content_type = content_type

    def answer(self):
        """The answer in the framework's shape."""
        body = json.dumps({"code": self.code, "message": self.message}, separators=(",", ":"))
        return Answer(self.status, body.encode(), self.headers, self.content_type)
