"Memory that stays warm inside a block, and goes back after it."
import os
import platform
import subprocess
import sys

import pytest
import torch

from multimix import malloc

CPU = torch.device("cpu")
PROGRAM = """
import resource, torch
from multimix.malloc import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(12_000_000).add_(1)  # 48 MB: above all of malloc's thresholds
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

torch.ones(2).add_(1)
before, small = faults(), resident()
try:
    with keep_memory(torch.device("cpu")) as kept:
        faults()
        inside, held = faults(), resident()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
print(int(kept), before, inside, faults(), small, held, resident())
"""


def measured(**environment):
    chosen = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=chosen | environment, capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


@pytest.mark.skipif(not malloc.can_keep(CPU), reason="needs glibc, 8 GB of free memory, and no setting of malloc in the environment")
def test_memory_is_held_inside_the_block_and_goes_back_after_it():
    kept, before, inside, after, small, held, resident = measured()
    assert kept == 1 and held - small > 40_000 > resident - small, "the 48 MB were held, and given back, also when an error ended the block"
    if before < 40_000:
        pytest.skip(f"this system hands out memory in larger pieces than pages of 4 kB: {before} for 4 x 48 MB")
    assert inside < before / 4, "inside, the same memory is used again"
    assert after > inside * 4, "after the block malloc does as it did"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_whoever_set_malloc_in_the_environment_is_left_alone():
    kept, *_, small, held, _ = measured(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == 0 and held - small < 40_000, "nothing is held"


@pytest.mark.parametrize("device, free", [("cuda", 2**40), ("cpu", 2**30)])
def test_gpus_and_short_memory_are_left_alone(device, free, monkeypatch):
    monkeypatch.setattr(malloc, "free_memory", lambda: free)
    assert not malloc.can_keep(torch.device(device))
    with malloc.keep_memory(torch.device(device)) as kept:
        assert not kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says of its memory")
def test_free_memory_is_a_part_of_what_the_machine_has():
    assert 0 < malloc.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
