"""A person's terminal: every command in a new shell, in one folder, with nothing in its environment but what a login has."""

import os
import pty
import subprocess
import time


class Failed(Exception):
    """A command ended otherwise than it should."""


class Terminal:
    def __init__(self, engine, folder, substitutes):
        self.engine, self.folder = engine, folder
        self.env = engine.env | substitutes

    def run(self, command, exit_status=0, answer=None, timeout=900):
        """Runs a command as it stands in a document, and returns all that it prints. With `answer` there is somebody at a terminal who
        types it in."""
        shell = ["bash", "--noprofile", "--norc", "-c", command]
        if answer is None:
            done = subprocess.run(shell, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
            said, status = done.stdout, done.returncode
        else:
            said, status = self.converse(shell, answer)
        if exit_status is not None and status != exit_status:
            raise Failed(f"$ {command}\nexit {status}, not {exit_status}\n{said[-4000:]}")
        return said

    def converse(self, shell, answer):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(shell, cwd=self.folder, env=self.env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        said, asked = b"", False
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                chunk = b""
            if not chunk:
                break
            said += chunk
            if not asked and b"Type yes" in said:
                asked = True
                os.write(ours, f"{answer}\n".encode())
        os.close(ours)
        status = process.wait()
        if not asked:
            raise Failed(f"$ {shell[-1]}\nasked nothing, exit {status}\n{said.decode(errors='replace')[-4000:]}")
        return said.decode(errors="replace"), status


def wait_for(what, ready, seconds=120):
    """The first true answer of `ready`; an error that says what was waited for, when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ready()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s for {what}")
        time.sleep(0.2)
