"""What goes wrong. Each is called in the middle of work and returns how to put it right, if that takes anything.

Or MISSED, when there was nothing to strike.
"""

import os
import signal

from lab import COMPONENTS
from machine import is_up, kill
from servers import Failed, wait_for


MISSED = object()


def kill_worker(lab):
    return None if kill(lab.chance.choice(lab.workers)) else MISSED


def kill_machine(lab):
    """All workers of one machine; another goes on."""
    return None if lab.machine().die() else MISSED


def kill_all_workers(lab):
    killed = [machine.die() for machine in lab.machines]
    return None if any(killed) else MISSED


def kill_child(lab):
    children = [child for machine in lab.machines for child in machine.children()][:1]
    for pid in children:
        lab.kill_pid(pid)
    return None if children else MISSED


def terminate_worker(lab):
    """It gives back what it has not done, and ends well, whatever else goes wrong."""
    process = lab.terminate(lab.chance.choice(lab.workers))
    return (lambda: process.wait(60)) if process else MISSED


def freeze_worker(lab):
    """Stops a worker's process, and lets the process go on later, when others may have taken its tasks."""
    worker = lab.chance.choice(lab.workers)
    process = worker.process
    if not is_up(worker):
        return MISSED
    process.send_signal(signal.SIGSTOP)
    return lambda: process.send_signal(signal.SIGCONT)


def crash(lab, server, number=signal.SIGKILL):
    """Ends a server at once; what starts it again is returned."""
    server.process.send_signal(number)
    server.process.wait()
    lab.stage.processes.remove(server.process)
    return server.start


def crash_postgres(lab):
    """SIGQUIT: it ends without a word to its sessions, and recovers from its log when it comes back."""
    return crash(lab, lab.postgres, signal.SIGQUIT)


def kill_backend(lab):
    ended = lab.postgres.psql("select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()", "postgres", check=False)
    return None if "t" in ended.stdout.split() else MISSED


def crash_redis(lab):
    return crash(lab, lab.redis)


def fail_over_redis(lab):
    """A replica takes over, in agreement with its master, as an administrator has it do."""
    master = lab.redis
    options = ("--replicaof", "127.0.0.1", str(master.port), "--masterauth", master.password)
    replica = lab.durable_redis(*options, password=master.password)
    # The master's word: for a moment the replica calls the link up, and the master refuses to fail over to it.
    wait_for("the replica", lambda: f"port={replica.port},state=online" in master.cli("info", "replication").stdout, replica.process)
    master.cli("config", "set", "masterauth", master.password)
    answer = master.cli("failover", "to", "127.0.0.1", str(replica.port), "timeout", "10000").stdout.strip()
    if answer != "OK":
        raise Failed(f"failover: {answer}")
    wait_for("the failover", lambda: "role:master" in replica.cli("info", "replication").stdout, replica.process)
    for machine in lab.machines:
        machine.lines["redis"].target = replica.port
        machine.lines["redis"].cut()
    lab.stage.end(master.process)
    at = replica.command.index("--replicaof")
    del replica.command[at : at + 3]  # should it be started once more
    lab.redis = replica


def crash_s3(lab):
    return crash(lab, lab.bucket)


def crash_weaviate(lab):
    return crash(lab, lab.weaviate)


def cut_line(lab):
    return None if lab.line().cut() else MISSED


def black_hole(lab):
    return change(lab.line(), "hole")


def slow_line(lab):
    return change(lab.line(), "slow")


def change(line, mode):
    line.mode = mode

    def clear():
        line.mode = "clear"

    return clear


def full_disk(lab):
    """Fills the disk of one machine, where the test may mount that disk."""
    machine = lab.machine()
    if not machine.is_small_disk:
        return MISSED
    ballast = machine.root / "ballast"
    with open(ballast, "wb", buffering=0) as file:  # a buffer would be written once more when it is closed
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError:
            pass
    return lambda: ballast.unlink()


def jump_clock(lab):
    """Moves the clock of one worker of a machine by up to two hours, until the fault ends."""
    machine = lab.machine()
    machine.put_clock(lab.chance.randrange(-7200, 7200))
    return lambda: machine.put_clock(0)


def back_up_by_hand(lab):
    """A backup beside the work of the fleet: it takes the lock of its machine alone, and puts right what it takes for a dead run's."""
    process = lab.machine().by_hand("backup", lab.chance.choice(COMPONENTS))
    return lambda: process.wait(120)


ALL = [
    kill_worker,
    kill_machine,
    kill_all_workers,
    kill_child,
    terminate_worker,
    freeze_worker,
    crash_postgres,
    kill_backend,
    crash_redis,
    fail_over_redis,
    crash_s3,
    crash_weaviate,
    cut_line,
    cut_line,
    black_hole,
    slow_line,
    full_disk,
    jump_clock,
    back_up_by_hand,
]
