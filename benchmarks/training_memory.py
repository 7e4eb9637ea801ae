"""Does training keep its speed and its memory as the cached images get more? Trains from caches of two sizes in turns, writes a CSV.

    python benchmarks/training_memory.py --out docs/training_memory.csv

Each count of images has a process of its own, which makes its cache and trains the method `enc_ssl` on a hundred labelled images and
all the others without labels. The processes take turns (A B B A ...): each does its steps, says how long they took, and waits. So
whatever else the machine does falls on both, and the ratio of a round is fair; on a busy machine that of the processor's seconds is
fairer. Pages of a mapped file count as the process's memory in most tools, though the system takes them back when it needs them; what
is reported is the memory of the process's own (RssAnon, Linux only), the most after any step.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from cache_memory import own_memory

COLUMNS = ["images", "pixels_mb", "seconds_per_step", "seconds_per_step_min", "seconds_per_step_max", "times_the_first",
           "cpu_seconds_per_step", "cpu_times_the_first", "own_memory_start_mb", "own_memory_most_mb"]


def write_cache(folder: str, n: int, size: int) -> np.ndarray:
    "A cache of `n` images made from a hundred phantoms, each with grain of its own; mapped, as `cache_images` gives it."
    from multimix.cache import cache_rows
    from multimix.phantom import make_phantom

    pictures = make_phantom(100, size, seed=0).images.astype(np.int16)

    def read(i):
        return (pictures[i % 100] + np.random.default_rng(i).integers(-8, 9, (size, size))).clip(0, 255).astype(np.uint8)

    return cache_rows(range(n), read, (size, size), f"image-{size}-{n}.npy", folder, progress=False)[0]


def make_trainer(folder: str, n: int, size: int, batch: int, labelled: int = 100):
    "A trainer of `enc_ssl`: a hundred labelled images, the rest without labels, all from the cache."
    from multimix.data import ImageSet, MultiTaskData
    from multimix.methods import make_config
    from multimix.step import Trainer

    images, names = write_cache(folder, n, size), [f"{i:06}" for i in range(n)]
    whole = ImageSet(images, names, labels=np.arange(n) % 2, classes=("normal", "pneumonia"))
    rest = ImageSet(images, names).subset(np.arange(labelled, n))
    config = make_config("corrected", method="enc_ssl", size=size, batch=batch, unlabeled=3 * batch, steps=10**6)
    return Trainer(config, MultiTaskData(whole.subset(np.arange(labelled)), rest))


def child(folder: str, n: int, size: int, batch: int, steps: int) -> None:
    "Answers each line on stdin with the seconds of `steps` steps and the memory before and after them."
    from multimix.step import train_step

    trainer = make_trainer(folder, n, size, batch)
    for _ in range(5):
        train_step(trainer)
    start = own_memory()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin, cpu, most = time.perf_counter(), time.process_time(), 0.0
        for _ in range(steps):
            train_step(trainer)
            most = max(most, own_memory())
        spent = {"seconds": (time.perf_counter() - begin) / steps, "cpu": (time.process_time() - cpu) / steps}
        print(json.dumps(spent | {"start": start, "most": most}), flush=True)


def turns(counts: list[int], size: int, batch: int, steps: int, rounds: int, folder: str) -> dict[int, list[dict]]:
    "What each process answered in each round."
    running = {}
    try:
        for n in counts:
            command = [sys.executable, __file__, "--child", folder, *map(str, (n, size, batch, steps))]
            running[n] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if running[n].stdout.readline() != "ready\n":
                raise SystemExit(f"the process that trains from {n} images failed")
        found = {n: [] for n in counts}
        for turn in range(rounds):
            for n in counts if turn % 2 == 0 else counts[::-1]:
                print("go", file=running[n].stdin, flush=True)
                found[n].append(json.loads(running[n].stdout.readline()))
        return found
    finally:
        for process in running.values():
            process.stdin.close()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[5000, 50000])
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--batch", type=int, default=4, help="labelled images a step; three times as many without labels")
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found, rows = turns(args.counts, args.size, args.batch, args.steps, args.rounds, folder), []
    for n, answers in found.items():
        seconds, cpu = ([turn[what] for turn in answers] for what in ("seconds", "cpu"))
        pairs = list(zip(answers, found[args.counts[0]]))
        times, cpu_times = (median(turn[what] / first[what] for turn, first in pairs) for what in ("seconds", "cpu"))
        values = [n, n * args.size**2 / 1e6, median(seconds), min(seconds), max(seconds), times, median(cpu), cpu_times,
                  answers[0]["start"], max(turn["most"] for turn in answers)]
        rows.append(dict(zip(COLUMNS, [n, *(round(v, 4 if v < 10 else 1) for v in values[1:])])))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if args.out:
        with open(args.out, "w", newline="") as f:
            writer = csv.DictWriter(f, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        main()
