"""How long a widget takes to answer a change, without a browser: `python benchmarks/widgets.py`

Each change is made as a hand would make it, by setting a control's value, and timed until its pictures and texts are there. Cold changes
go to images that were never seen, so the network is asked; warm ones need no call of it. Prints a table, writes docs/bench/widgets.json."""
import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from multimix.augmentation_explorer import AugmentationExplorer
from multimix.bench import machine
from multimix.data import MultiTaskData
from multimix.explorer import METHOD_NAMES, SaliencyExplorer
from multimix.model import MultiMix
from multimix.operations import OPS
from multimix.phantom import make_phantom
from multimix.pseudo_explorer import PseudoLabelExplorer

COLUMNS = ("median", "least", "most", "cpu", "wanted")  # milliseconds
QUICK, MAP = 0.3, 2.0  # seconds we want: without a call of the network, and for a gradient map


def timed(change, values) -> list[tuple[float, float]]:
    "Seconds of the clock, and of the processor in all threads, for `change(value)`, for each value."
    seconds = []
    for value in values:
        start = time.perf_counter(), time.process_time()
        change(value)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return seconds


def setter(control):
    return lambda value: setattr(control, "value", value)


def saliency(size: int, width: int, rounds: int) -> dict[str, tuple[list[tuple[float, float]], float | None]]:
    "Seconds and what we want, by change."
    explorer = SaliencyExplorer(MultiMix(width=width, saliency_scale="max", seed=0).eval(), make_phantom(2 + 6 * rounds, size, seed=2))
    c, found = explorer.controls, {}
    steps = np.linspace(0.1, 0.9, rounds)
    for name in ("opacity", "threshold", "smoothing"):
        found[f"saliency: {name}"] = timed(setter(getattr(c, name)), steps), QUICK
    found["saliency: back to images seen"] = timed(setter(c.number), [1, 0] * 2)[2:], QUICK
    images = iter(range(2, 2 + 6 * rounds))
    for label, method in METHOD_NAMES.items():
        with explorer.quiet():
            c.method.value = method
        seconds = timed(setter(c.number), [next(images) for _ in range(rounds)])
        found[f"saliency: next image, {label}"] = seconds, MAP if method == "gradient" else None
    found["saliency: bridge"] = timed(setter(c.bridge), ("zeroed", "shuffled")), None
    found["saliency: bridge, seen"] = timed(setter(c.bridge), ("zeroed", "shuffled")), QUICK
    found["saliency: save figure"] = timed(lambda _: c.save.click(), range(rounds)), None
    assert explorer.message.value == ""
    return found


def pseudo_labels(size: int, width: int, rounds: int) -> dict:
    data = MultiTaskData.from_sets(make_phantom(300, size, seed=3, task="classification"), labels=20)
    made = []
    seconds = timed(lambda model: made.append(PseudoLabelExplorer(model, data)), [MultiMix(width=width, seed=0).eval()])
    [explorer] = made
    found = {f"pseudo-labels: opening, {len(explorer.guesses.probs)} images": (seconds, None)}
    found["pseudo-labels: threshold"] = timed(setter(explorer.threshold), np.linspace(0.51, 0.99, rounds)), QUICK
    found["pseudo-labels: policy"] = timed(setter(explorer.policy), explorer.policy.options[1:]), QUICK
    assert explorer.message.value == ""
    return found


def augmentation(size: int, rounds: int) -> dict:
    explorer = AugmentationExplorer(make_phantom(8, size, seed=4))
    found = {"augmentation: operation": (timed(setter(explorer.operation), [o for o in OPS if o != "Rotate"]), QUICK)}
    found["augmentation: magnitude"] = timed(setter(explorer.strength), [1, 3, 5, 7, 2, 4, 6][:rounds]), QUICK
    for view in ("weak", "strong"):
        explorer.view.value = view
        found[f"augmentation: seed, {view}"] = timed(setter(explorer.seed), range(1, 1 + rounds)), QUICK
        explorer.seed.value = 0
    assert explorer.message.value == ""
    return found


def monitor(size: int, width: int, rounds: int) -> dict:
    from multimix.methods import make_config
    from multimix.monitor import TrainingMonitor

    watcher, config = TrainingMonitor(live=True), make_config(size=size, width=width)
    watcher.watch(MultiMix(width=width, saliency_scale="max", seed=0), config)
    row = {"loss": 1.0, "ce": 0.5, "dice": 0.5, "kept": 0.5, "lr": 1e-3, "val_dice": 0.5}
    rows = [{"step": k + 1, **row} for k in range(rounds)]
    found = {"monitor: a logged row": (timed(lambda k: watcher(rows[: k + 1]), range(rounds)), None)}
    assert watcher.message.value == ""
    return found


def as_row(change: str, seconds: list[tuple[float, float]], wanted: float | None) -> dict:
    "Milliseconds of the clock (median, least, most) and of the processor (median), and what we want."
    clock, processor = ([1000 * s for s in column] for column in zip(*seconds))
    found = dict(zip(COLUMNS, (median(clock), min(clock), max(clock), median(processor), wanted and 1000 * wanted)))
    return {"change": change, "times": len(seconds), **{name: value if value is None else round(value) for name, value in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--width", type=int, default=16, help="channels of the network's first stage")
    parser.add_argument("--rounds", type=int, default=5, help="how often each change is made")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs/bench/widgets.json")
    args = parser.parse_args()
    before, size, width, rounds = machine(torch.device("cpu")), args.size, args.width, args.rounds
    found = {**saliency(size, width, rounds), **pseudo_labels(size, width, rounds), **augmentation(size, rounds)}
    rows = [as_row(name, *seconds) for name, seconds in {**found, **monitor(size, width, rounds)}.items()]
    print(f"{'change':45s}" + "".join(f"{name:>8s}" for name in COLUMNS) + "  (ms)")
    for row in rows:
        print(f"{row['change']:45s}" + "".join(f"{'' if row[name] is None else row[name]:>8}" for name in COLUMNS))
    settings = {"size": size, "width": width, "rounds": rounds}
    result = {"machine": before, "load_after": round(os.getloadavg()[0], 2), "settings": settings, "changes": rows}
    beside = args.out.with_name(args.out.name + ".part")
    beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, args.out)


if __name__ == "__main__":
    main()
