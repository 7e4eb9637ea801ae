"""How long does the paper's full training take, in which numbers, and how well does it end? Trains, judges, writes a JSON file as it goes.

    python benchmarks/full_training.py --device cuda --out docs/bench/full_training.json
    python benchmarks/full_training.py --device cpu --size 32 --steps 20 --seeds 0 --plain-rounds 1 --out small.json

The defaults are the paper's: 8,856 steps of 5 x 10 images of 256 x 256, preset `released`. Every seed is trained in bfloat16 and in
float32. Beside them stands the plain published step (`multimix.plain`), timed in a few steps and multiplied. What is done stays done: the
same command goes on after a kill. On a GPU, `busy` is the share of the time in which a kernel ran, by torch's profiler over twenty steps.
"""
import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from multimix.bench import interleave, machine, plain_run
from multimix.experiments import judge, load_data, pick_device
from multimix.methods import make_config
from multimix.step import Trainer, train_step
from multimix.training import train

SCORES = {"auroc": "classification", "dice": "segmentation"}


def save(path: Path, found: dict) -> None:
    "Write beside and rename."
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(found, indent=1))
    os.replace(beside, path)


def busy_share(trainer: Trainer, steps: int = 20) -> float | None:
    "The share of `steps` steps in which the GPU computed; None on a CPU."
    if trainer.device.type != "cuda":
        return None
    for _ in range(3):
        train_step(trainer)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        begin = time.perf_counter()
        for _ in range(steps):
            train_step(trainer)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    kernels = sorted((e.time_range.start, e.time_range.end) for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA)
    covered = end = 0
    for start, stop in kernels:  # kernels of several queues may overlap
        covered, end = covered + max(0, stop - max(start, end)), max(end, stop)
    return covered / 1e6 / seconds


def one_run(config, data, device: str) -> dict:
    "Train and judge: seconds, images a second, GPU memory and scores."
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    run = train(config, data, device=device, progress=sys.stderr.isatty())
    results = judge(run, data, device)["in_domain"]
    memory = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
    found = {"seconds": run.seconds, "images_per_second": 5 * config.batch * config.steps / run.seconds, "peak_memory_bytes": memory}
    return found | {name: results[task][name] for name, task in SCORES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder as for multimix train; without it, phantoms")
    parser.add_argument("--device", default="auto")
    for name, value in (("size", 256), ("steps", 8856), ("batch", 10), ("plain-rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--preset", default="released")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--masks", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--amp", nargs="+", default=["bf16", "no"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = pick_device(args.device)
    settings = {k: getattr(args, k) for k in ("size", "steps", "batch", "preset", "labels", "masks")}
    found = json.loads(args.out.read_text()) if args.out.exists() else {"settings": settings, "runs": {}}
    if found["settings"] != settings:
        parser.error(f"{args.out} holds other settings ({found['settings']}): name another file")
    found["machine"] = machine(torch.device(device))
    for seed in args.seeds:
        for amp in args.amp:
            if (name := f"{amp}-{seed}") not in found["runs"]:
                config = make_config(**settings, unlabeled=args.batch, seed=seed, amp=amp)
                data = load_data(args.data, config)
                busy = busy_share(Trainer(config, data, device))
                found["runs"][name] = one_run(config, data, device) | {"gpu_busy": busy}
                save(args.out, found)
    if "plain_seconds_per_step" not in found:
        plain = plain_run(args.size, args.batch, device)
        seconds = statistics.median(interleave(args.plain_rounds, torch.device(device), plain=plain)["plain"])
        save(args.out, found := found | {"plain_seconds_per_step": seconds, "plain_seconds": seconds * args.steps})
    for name, run in sorted(found["runs"].items()):
        print(f"{name:8s}", *(f"{k} {v:.4g}" for k, v in run.items() if v is not None))
    print(f"plain    seconds {found['plain_seconds']:.4g} (by {args.plain_rounds} steps)")


if __name__ == "__main__":
    main()
