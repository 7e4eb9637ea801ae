"""Does the memory for caching and for reading stay flat as the files get more? Generates PNGs, measures, writes a CSV.

    python benchmarks/cache_memory.py --out docs/cache_memory.csv

Every count runs in a process of its own, which says at its end the most memory that it ever held (the system's number, ru_maxrss). Pages
of a mapped file count there as well, though the system takes them back when it needs them; so for the epoch, which reads through the map,
the memory of the process's own (RssAnon, Linux only) stands beside it.
"""
import argparse
import csv
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = ["images", "pixels_mb", "build_peak_mb", "build_images_per_s", "build_images_per_cpu_s", "reopen_s", "epoch_own_mb",
           "epoch_images_per_s"]


def make_files(folder: Path, n: int, side: int = 256) -> list[str]:
    "`n` PNG files of `side` pixels, in all a hundred different pictures."
    rng, y = np.random.default_rng(0), np.linspace(0, 1, side)
    blobs = []
    for _ in range(min(n, 100)):
        smooth = 128 + 60 * np.outer(np.sin(7 * y + rng.uniform(0, 6)), np.cos(5 * y + rng.uniform(0, 6)))
        out = io.BytesIO()
        Image.fromarray((smooth + rng.normal(0, 4, (side, side))).clip(0, 255).astype(np.uint8)).save(out, "PNG")
        blobs.append(out.getvalue())
    paths = [str(folder / f"{i:06}.png") for i in range(n)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(blobs[i % len(blobs)])
    return paths


def own_memory() -> float:
    "MB that belong to this process alone, without pages of mapped files; 0 where the system does not tell."
    try:
        return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024
    except (OSError, StopIteration):
        return 0.0


def build(paths: list[str], size: int, cache: str) -> dict:
    "Cache the files; the second start is timed, too."
    from multimix.cache import cache_images

    begin, cpu = time.perf_counter(), time.process_time()
    cache_images(paths, size, cache, progress=False)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    begin = time.perf_counter()
    cache_images(paths, size, cache, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
    return {"build_peak_mb": round(peak, 1), "build_images_per_s": round(len(paths) / seconds),
            "build_images_per_cpu_s": round(len(paths) / cpu), "reopen_s": round(time.perf_counter() - begin, 3)}


def epoch(paths: list[str], size: int, cache: str) -> dict:
    "One epoch of batches of 30 over nine tenths of the images, as a training reads them."
    from multimix.data import ImageSet, Stream, cache_images

    images = cache_images(paths, size, cache, progress=False)
    part = ImageSet(images, paths).subset(np.random.default_rng(0).permutation(len(paths))[: len(paths) * 9 // 10])
    stream = Stream(part, 30, name="cls_unlabeled")
    stream.batch(0)
    before, most, begin, steps = own_memory(), 0.0, time.perf_counter(), len(part) // 30
    for step in range(steps):
        stream.batch(step)
        most = max(most, own_memory()) if step % 10 == 0 else most
    return {"epoch_own_mb": round(most - before, 1), "epoch_images_per_s": round(30 * steps / (time.perf_counter() - begin))}


def in_a_process(what: str, listing: Path, n: int, size: int, cache: str) -> dict:
    command = [sys.executable, __file__, "--child", what, str(listing), str(n), str(size), cache]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def pools(paths: list[str], size: int) -> None:
    "Images a second of CPU time and of the clock, by threads and by processes."
    chunks = [paths[i : i + 16] for i in range(0, len(paths), 16)]
    for name, pool in (("thread", ThreadPoolExecutor), ("process", ProcessPoolExecutor)):
        for workers in (1, 2):
            with pool(workers) as running:
                list(running.map(partial(decode, size=size), chunks[: 2 * workers]))
                begin = time.perf_counter()
                cpu = sum(running.map(partial(decode, size=size), chunks))
                clock = time.perf_counter() - begin
            print(f"{workers} x {name}: {len(paths) / cpu:.0f} images a CPU second, {len(paths) / clock:.0f} a second")


def decode(chunk: list[str], size: int) -> float:
    from multimix.images import thumbnail

    begin = time.thread_time()
    for path in chunk:
        thumbnail(path, size)
    return time.thread_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 2000, 5000, 10000, 20000])
    parser.add_argument("--size", type=int, default=128, help="pixels a side in the cache")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--only", choices=["build", "pools"], help="leave out the epoch, or only compare threads with processes")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "files").mkdir()
        paths = make_files(Path(folder) / "files", max(args.counts))
        (Path(folder) / "list").write_text("\n".join(paths))
        if args.only == "pools":
            return pools(paths, args.size)
        for n in args.counts:
            row = {"images": n, "pixels_mb": round(n * args.size**2 / 1e6, 1)}
            for what in ["build"] if args.only else ["build", "epoch"]:
                row |= in_a_process(what, Path(folder) / "list", n, args.size, f"{folder}/cache{n}")
            rows.append(row)
            print(", ".join(f"{name} {row[name]}" for name in COLUMNS if name in row), flush=True)
    if args.out:
        with open(args.out, "w", newline="") as f:
            writer = csv.DictWriter(f, [name for name in COLUMNS if name in rows[0]])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        what, listing, n, size, cache = sys.argv[2:]
        print(json.dumps({"build": build, "epoch": epoch}[what](Path(listing).read_text().split("\n")[: int(n)], int(size), cache)))
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        main()
