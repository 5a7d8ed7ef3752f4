"""Who may do what: API keys, anonymous access, read-only keys and keys for some classes only."""

from answers import Refused, Rejected

NO_CREDENTIALS = "anonymous access not enabled, please provide an auth scheme such as OIDC"
WRONG_KEY = "invalid api key, please provide a valid api key"
NO_OIDC = ("oidc auth is not configured, please try another auth scheme or set up weaviate "
           "with OIDC configured")


class User:
    """Somebody with a name, who may write or only read, all classes or some."""

    def __init__(self, name, writes=True, classes=None):
        self.name = name
        self.writes = writes
        self.classes = classes


ANONYMOUS = User("anonymous")


class Access:
    """Decides on the header of a request and on a user's rights."""

    def __init__(self, version, keys=(), read_only=(), limited=(), anonymous=False):
        self.version = version
        self.users = {key: User(f"user-{number}") for number, key in enumerate(keys, 1)}
        self.users.update({key: User(f"reader-{number}", writes=False)
                           for number, key in enumerate(read_only, 1)})
        self.users.update({key: User(f"limited-{number}", classes=frozenset(classes))
                           for number, (key, classes) in enumerate(limited, 1)})
        self.anonymous = anonymous or not self.users

    def user(self, header):
        """The user behind an `Authorization` header, or a 401 with the body that belongs to the case."""
        word, _, token = (header or "").partition(" ")
        if word.lower() != "bearer" or not token:
            if self.anonymous:
                return ANONYMOUS
            # The server sets no content type here: a client must not need one.
            raise Rejected(401, NO_CREDENTIALS, content_type=None)
        if not self.users:
            raise Rejected(401, NO_OIDC)
        if token.strip() not in self.users:
            raise Rejected(401, WRONG_KEY)
        return self.users[token.strip()]

    def require_write(self, user, verb, resource):
        """403 for a user who may only read."""
        if not user.writes:
            raise Refused(403, self._words(user, verb, resource))

    def allowed_classes(self, user, names, named, verb, resource):
        """The classes a user may back up or restore.

        One class without the right makes the whole request 403; the newest servers narrow a request
        that names no classes to those the user has the right for, and do not say so.
        """
        if user.classes is None:
            return names
        kept = [name for name in names if name in user.classes]
        if len(kept) == len(names):
            return names
        if named or not kept or not self.version.has("narrowed_classes"):
            raise Refused(403, self._words(user, verb, resource))
        return kept

    def _words(self, user, verb, resource):
        if self.version.has("role_rights"):
            return (f"authorization, forbidden action: user '{user.name}' has insufficient permissions "
                    f"to {verb} {resource}")
        return f"forbidden: user '{user.name}' has insufficient permissions to {verb} {resource}"
