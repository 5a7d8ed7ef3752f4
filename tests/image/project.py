"""A compose project as its engine sees it: containers, volumes, health, metrics, results in Redis."""

import json
import re
import urllib.error
import urllib.request

from terminal import Failed, wait_for

TIMEOUT = 10


class Project:
    def __init__(self, terminal, name, redis="redis"):
        self.terminal, self.engine, self.name, self.redis = terminal, terminal.engine, name, redis

    def containers(self, service):
        """Ids of the containers of a service, ended ones too."""
        filters = ["--filter", f"label=com.docker.compose.project={self.name}", "--filter", f"label=com.docker.compose.service={service}"]
        return self.engine.run("ps", "--all", "--quiet", *filters, "--filter", "label=com.docker.compose.oneoff=False").stdout.split()

    def container(self, service):
        (only,) = self.containers(service)
        return only

    def inspect(self, container):
        return json.loads(self.engine.run("inspect", container).stdout)[0]

    def state(self, service):
        return self.inspect(self.container(service))["State"]

    def is_healthy(self, service):
        return self.state(service).get("Health", {}).get("Status") == "healthy"

    def wait_healthy(self, service):
        wait_for(f"{service} to be healthy", lambda: self.is_healthy(service))

    def exec(self, service, *command, check=True, user=None):
        return self.engine.run("exec", *(["--user", user] if user else []), self.container(service), *command, check=check).stdout

    def http(self, path, container=None):
        """Status and text of the worker's HTTP endpoint, asked from the host; (0, "") while nothing listens."""
        networks = self.inspect(container or self.container("rna-backup"))["NetworkSettings"]["Networks"].values()
        for address in [network["IPAddress"] for network in networks if network["IPAddress"]]:
            try:
                with urllib.request.urlopen(f"http://{address}:9188{path}", timeout=TIMEOUT) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read().decode()
            except OSError:
                continue
        return 0, ""

    def metric(self, name, **labels):
        """The value of a series; None where there is none."""
        for line in self.http("/metrics")[1].splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(f'{label}="{value}"' in line for label, value in labels.items()):
                return float(line.split()[-1])
        return None

    def owner(self, volume):
        """uid:gid and mode of a volume's folder, seen through a container without a folder at that place."""
        return self.engine.run("run", "--rm", "--volume", f"{self.name}_{volume}:/seen", "debian:bookworm-slim", "stat", "-c", "%u:%g %a", "/seen").stdout.strip()

    def result(self, task_id):
        """The stored result of a task, or None."""
        text = self.exec(self.redis, "redis-cli", "get", f"celery-task-meta-{task_id}")
        return json.loads(text) if text.strip() else None

    def succeeded(self, task_id, seconds=180):
        """The result of a task once it has ended well."""
        ended = wait_for(f"the end of task {task_id}", lambda: (meta := self.result(task_id)) and meta["status"] in ("SUCCESS", "FAILURE", "REVOKED") and meta, seconds)
        if ended["status"] != "SUCCESS":
            raise Failed(f"task {task_id} ended with {ended}")
        return ended["result"]

    def weaviate(self, method, path, body=None):
        """An answer of Weaviate's API, asked from the host."""
        networks = self.inspect(self.container("weaviate"))["NetworkSettings"]["Networks"].values()
        (address,) = [network["IPAddress"] for network in networks]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{address}:8080{path}", data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def psql(self, sql):
        return self.exec("postgres", "psql", "-XqAt", "-U", "postgres", "-d", "rna_db", "-c", sql).strip()
