"""What does reading ahead bring? Steps of a fixed length with images from a mapped file: cold from the disk, warm from memory.

    python benchmarks/read_ahead.py

Before each cold epoch the pages of the file are given back to the system (Linux), so that all batches come from the disk. A step computes
by sleeping, as a GPU lets the processor do. With and without reading ahead in turns.
"""
import argparse
import mmap
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from training_memory import write_cache


def forget(array: np.memmap) -> None:
    "Have the system drop the pages of a mapped file."
    array._mmap.madvise(mmap.MADV_DONTNEED)
    with open(array.filename, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epoch(stream, step_seconds: float) -> float:
    "Milliseconds that a step waits for its batch, in the mean."
    waited = 0.0
    for step in range(len(stream) // stream.batch_size):
        begin = time.perf_counter()
        stream.batch(step)
        waited += time.perf_counter() - begin
        time.sleep(step_seconds)
    return 1000 * waited / (step + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=30)
    parser.add_argument("--step", type=float, default=0.05, help="seconds that a step computes")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    import multimix.data as data

    found = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        images = write_cache(folder, args.images, args.size)
        stream = data.Stream(data.ImageSet(images, [str(i) for i in range(len(images))]), args.batch)
        worth = data.WORTH
        for _ in range(args.rounds):
            for pages in ("cold", "warm"):
                for how, least in (("alone", 1e9), ("ahead", worth)):
                    data.WORTH = least
                    if pages == "cold":
                        forget(images)
                    found.setdefault((pages, how), []).append(epoch(stream, args.step))
    for (pages, how), waited in found.items():
        print(f"{pages}, {how}: a step waits {median(waited):.2f} ms ({min(waited):.2f} to {max(waited):.2f})")


if __name__ == "__main__":
    main()
