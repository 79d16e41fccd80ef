"""What a get and a put cost in Python, against threading.Lock.

Every round all candidates take their turn, alone and beside a second thread that does the
same. Needs the package module_ref installed; `python benches/python.py --help`.
"""

import argparse
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Callable, Optional, TextIO

import module_ref

ROUNDS = 7
SECONDS = 0.03  # of each turn
BATCH = 200

ref = module_ref.ModuleRef(per_cpu=True)
lock = threading.Lock()


def try_get_put(times: range) -> None:
    try_get, put = ref.try_get, ref.put
    for _ in times:
        try_get()
        put()


def with_hold(times: range) -> None:
    hold = ref.hold
    for _ in times:
        with hold():
            pass


def acquire_release(times: range) -> None:
    acquire, release = lock.acquire, lock.release
    for _ in times:
        acquire()
        release()


def with_lock(times: range) -> None:
    for _ in times:
        with lock:
            pass


COUNTS = "counts references; an unload is refused or waits, and refuses who comes later"
EXCLUDES = "excludes the unloader while it is held, and every other user"
CANDIDATES = [
    ("try_get_put", "ref.try_get(), ref.put()", True, COUNTS, "a call each", try_get_put),
    ("with_hold", "with ref.hold()", True, COUNTS, "an object for each hold", with_hold),
    (
        "acquire_release",
        "lock.acquire(), lock.release()",
        False,
        EXCLUDES,
        "users run one at a time",
        acquire_release,
    ),
    ("with_lock", "with lock", False, EXCLUDES, "users run one at a time", with_lock),
]
RATIOS = [
    ("try_get and put to Lock's acquire and release", "try_get_put", "acquire_release"),
    ("with ref.hold() to with lock", "with_hold", "with_lock"),
]


def turn(work: Callable[[range], None], threads: int) -> float:
    """Nanoseconds for each pair, of all threads together."""
    over = threading.Event()
    start = threading.Barrier(threads + 1)
    done = [0] * threads

    def run(number: int) -> None:
        times = range(BATCH)
        start.wait()
        while not over.is_set():
            work(times)
            done[number] += BATCH

    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter_ns()
    time.sleep(SECONDS)
    over.set()
    for worker in workers:
        worker.join()
    return (time.perf_counter_ns() - began) / sum(done)


def save(file: Optional[TextIO], kind: str, **members: object) -> None:
    if file:
        print(json.dumps({"kind": kind, "question": "python", **members}), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python.py", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every figure")
    parser.add_argument("--quick", action="store_true", help="few rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds = min(options.rounds, 3)
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    file = options.json.open("w") if options.json else None

    measured: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for threads in (1, 2):
            for key, *_, work in CANDIDATES:
                measured.setdefault((key, threads), []).append(turn(work, threads))

    for threads in (1, 2):
        print(
            f"{threads} thread{'s' if threads > 1 else ''}, ratio of one turn to the other: median"
        )
        for what, ours, theirs in RATIOS:
            values = [a / b for a, b in zip(measured[ours, threads], measured[theirs, threads])]
            print(f"  {statistics.median(values):6.3f}                     {what}")
            save(
                file,
                "ratio",
                what=what,
                ours=ours,
                theirs=theirs,
                threads=threads,
                goal=None,
                values=values,
            )
        print()
    for key, name, is_ours, gives, lacks, _ in CANDIDATES:
        save(file, "candidate", key=key, name=name, ours=is_ours, gives=gives, lacks=lacks)
    for threads in (1, 2):
        print(
            f"{threads} thread{'s' if threads > 1 else ''}, ns per pair: median [smallest largest]"
        )
        for key, name, *_ in CANDIDATES:
            values = measured[key, threads]
            low, high = min(values), max(values)
            print(f"  {statistics.median(values):9.2f}  [{low:8.2f} {high:8.2f}]  {name}")
            save(file, "cell", candidate=key, unit="ns per pair", threads=threads, values=values)
        print()


if __name__ == "__main__":
    main()
