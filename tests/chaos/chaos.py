"""Whatever goes wrong at whatever instant, the invariants hold: `make chaos`.

    python tests/chaos/chaos.py PROGRAM [--sabotage]

CHAOS_SECONDS (1800) bounds it, CHAOS_SEED repeats what is ordered and which faults strike, though not the instant to
the microsecond. Each round orders work of the workers of two machines, lets one to four things go wrong in the middle of
it, puts them right, waits until every task has ended, starts the workers anew, and checks invariants.py. In most rounds
a machine dies over a task or is cut off (takeover.py), or somebody works by hand in the middle of a run (visit.py). A violation ends it;
the folder with all logs stays. --sabotage breaks one thing after the other by hand and wants the invariant to notice.
"""

import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import faults  # noqa: E402
import orders  # noqa: E402
import sabotage  # noqa: E402
from invariants import AFTER_UNDO, violations  # noqa: E402
from lab import Lab  # noqa: E402
from servers import Failed, Stage, wait_for  # noqa: E402
from takeover import BackupTakeover, Takeover, UndoTakeover  # noqa: E402
from visit import Crontab, Visit  # noqa: E402

PATIENCE = 300  # seconds that a round's work may take, once all is well again: three attempts of everything, and 30 s for what died

SCENES = (*4 * (Takeover,), *2 * (BackupTakeover,), UndoTakeover, *2 * (Visit,), None, None, Crontab)  # what a round may have beside its faults


def strike(lab, events, most):
    """Some faults, each at its instant; what has to be put right is so a while later."""
    for fault in lab.chance.choices(faults.ALL, k=lab.chance.randrange(1, most + 1)):
        time.sleep(lab.chance.random() * 1.5)  # no wait for anything: the instant is the point
        heal = fault(lab)
        if heal is faults.MISSED:
            continue
        events.append(fault.__name__)
        if heal:
            time.sleep(lab.chance.random() * 3)
            heal()


def settle(lab, ledger):
    """Starts whoever died, and waits until all has ended; then everybody starts anew."""
    lab.start_workers()
    ended = lambda: ledger.follow(lab.results(ledger.round_ids()))  # noqa: E731
    try:
        wait_for("every task to end", ended, seconds=PATIENCE)
        wait_for("the broker to be empty", lambda: lab.redis.cli("hlen", "unacked").stdout.strip() == "0", seconds=60)
    except Failed as late:
        print(f"  {late}")  # the invariant says which
    ledger.learn(lab.results(ledger.round_ids()), lab.machines)
    for worker in lab.workers:
        lab.terminate(worker)
    for worker in lab.workers:
        worker.process.wait(60)
    lab.start_workers()


def round_of(lab, ledger, client, number):
    events = []
    lab.live_on(number)
    ledger.begin(lab.fingerprints())
    scene = lab.chance.choice(SCENES)
    scene = scene and scene(lab, ledger, client, number)
    if scene and not scene.order():
        scene = None
    orders.order(lab, client, ledger)
    if scene:
        events.append(scene.strike())
    if scene is None or scene.leaves_all_well():
        strike(lab, events, 2 if scene else 4)
    if scene:
        scene.be_taken_over()
    settle(lab, ledger)
    if scene and lab.chance.random() < 0.6:
        scene.come_back()
    broken = violations(lab, ledger)
    # The next backup of a component forgets what was before.
    if scene and not broken and scene.undo():
        events.append(f"undid_{scene.component}")
        broken = violations(lab, ledger, AFTER_UNDO)
    return events, broken


def prepare(lab, ledger):
    """A backup of everything, so that the first round has something to restore."""
    before = lab.fingerprints()
    ledger.begin(before)
    for component in before:
        made = json.loads(lab.machine().command("backup", component).stdout)
        ledger.holds[made["backup_id"]] = before[component]


def main():
    program = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None) or sys.exit(__doc__)
    seed = int(os.environ.get("CHAOS_SEED") or time.time_ns() % 1_000_000)
    seconds = float(os.environ.get("CHAOS_SECONDS", "1800"))
    with Stage("rna-chaos") as stage:
        lab = Lab(stage, Path(program).resolve(), seed)
        try:
            lab.start_workers()
            if not lab.is_small_disk:
                print("SKIPPED: full disks, since we may not mount one here")
            if "--sabotage" in sys.argv:
                return sabotage.run(lab, orders.Ledger(), settle)
            return run(lab, seed, seconds)
        finally:
            lab.close()


def run(lab, seed, seconds):
    print(f"CHAOS_SEED={seed}, {seconds:.0f} s")
    ledger, struck, began, number = orders.Ledger(), {}, time.monotonic(), 0
    prepare(lab, ledger)
    while time.monotonic() - began < seconds:
        number += 1
        lab.chance.seed(f"{seed}, round {number}")  # so that a round's beginning depends on none before it
        client = lab.client()
        events, broken = round_of(lab, ledger, client, number)
        lab.stage.end(client.process)
        for event in events:
            struck[event] = struck.get(event, 0) + 1
        print(f"round {number}: {len(ledger.orders)} tasks; {', '.join(events) or 'nothing struck'}", flush=True)
        if broken:
            for invariant, what in broken:
                print(f"  VIOLATION of {invariant}: {what}")
            kept = f"{lab.stage.dir}-kept"
            os.system(f"cp -a '{lab.stage.dir}' '{kept}'")
            print(f"  everything that ran has its log in {kept}")
            return 1
    told = ", ".join(f"{name} {count}" for name, count in sorted(struck.items()))
    print(f"{number} rounds, 0 violations, in {time.monotonic() - began:.0f} s. Struck: {told}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
