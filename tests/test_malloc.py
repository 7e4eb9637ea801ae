"Memory that stays warm inside a block, and goes back after it."
import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from multimix import malloc

CPU = torch.device("cpu")
can_keep = pytest.mark.skipif(not malloc.can_keep(CPU), reason="needs glibc, 8 GB free, and malloc as it is set by default")
PROGRAM = """
import ctypes, json, mmap, resource, torch
from multimix.malloc import keep_memory

class Mallinfo(ctypes.Structure):  # mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo

def apart(numbers):  # whether so many float32 get a place of their own, outside the heap
    before = libc.mallinfo2().hblkhd
    piece = torch.empty(numbers)
    return libc.mallinfo2().hblkhd - before >= 4 * numbers

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(12_000_000).add_(1)  # 48 MB: above all of malloc's thresholds
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():  # kB that are the process's own: counted page by page where the kernel does that
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:"))

def given_back(how):  # kB that the kernel sees go when 48 MB are given back without malloc
    with mmap.mmap(-1, 48_000_000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as piece:
        piece.write(b"x" * len(piece))
        before = held()
        if how == "madvise":
            piece.madvise(mmap.MADV_DONTNEED)
            return before - held()
    return before - held()

torch.ones(2).add_(1)
seen = {"exact": min(map(given_back, ("madvise", "munmap")))}
seen |= {"faults before": faults(), "apart before": apart(12_000_000), "held before": held()}
try:
    with keep_memory(torch.device("cpu")) as kept:
        faults()
        seen |= {"kept": kept, "faults": faults(), "apart": apart(12_000_000), "held": held()}
        raise KeyboardInterrupt
except KeyboardInterrupt:
    seen |= {"held after": held(), "apart after": apart(120_000_000)}  # larger than any hole that is left in the heap
print(json.dumps(seen))
"""


def measured(**environment):
    chosen = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=chosen | environment, capture_output=True, text=True)
    if "smaps_rollup" in done.stderr or "mallinfo2" in done.stderr:
        pytest.skip(f"this system does not tell what is held: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def seen():
    return measured()


@can_keep
def test_inside_the_block_large_pieces_come_from_the_heap_and_afterwards_apart_again(seen):
    assert seen["kept"] and seen["apart before"] and not seen["apart"] and seen["apart after"], seen


@can_keep
def test_memory_is_held_inside_the_block_and_goes_back_after_it(seen):
    if seen["exact"] < 40_000:
        pytest.skip(f"this system does not see memory go back: {seen}")
    more, left = seen["held"] - seen["held before"], seen["held after"] - seen["held before"]
    assert more > 40_000 > left, f"the 48 MB were held, and given back, also when an error ended the block: {seen}"


@can_keep
def test_inside_the_block_the_same_memory_is_used_again(seen):
    if seen["faults before"] < 40_000:
        pytest.skip(f"this system hands out memory in larger pieces than pages of 4 kB: {seen}")
    assert seen["faults"] < seen["faults before"] / 4, seen


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_whoever_set_malloc_in_the_environment_is_left_alone():
    seen = measured(MALLOC_TRIM_THRESHOLD_="131072")
    assert not seen["kept"] and seen["apart"]


@pytest.mark.parametrize("device, free", [("cuda", 2**40), ("cpu", 2**30)])
def test_gpus_and_short_memory_are_left_alone(device, free, monkeypatch):
    monkeypatch.setattr(malloc, "free_memory", lambda: free)
    assert not malloc.can_keep(torch.device(device))
    with malloc.keep_memory(torch.device(device)) as kept:
        assert not kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of its memory")
def test_free_memory_is_a_part_of_what_the_machine_has():
    assert 0 < malloc.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
