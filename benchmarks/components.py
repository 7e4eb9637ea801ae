"""What the two largest components of each mask bring: `python benchmarks/components.py RUNS ... --data DIR --out FILE.csv`

For every finished run under RUNS that knows masks: the mean Dice on the images held out for validation (where there are any) and on both
test sets, of the masks as they are and of their two largest components, and how many images gain or lose more than a hundredth.
Rows are written as they come; those in FILE stay."""
from dataclasses import replace
from pathlib import Path

import numpy as np
from each_run import each_run

from multimix.data import ImageSet
from multimix.evaluation import overlap_scores, predict
from multimix.experiments import load_data, load_run
from multimix.judging import Judged, largest_components
from multimix.methods import METHODS, Config


def dice(masks: np.ndarray, images: ImageSet) -> np.ndarray:
    "The Dice of each of the masks (N, 1, H, W) bool, (N,)."
    return overlap_scores(masks, np.asarray(images.masks) > 0)["dice"].mean(1)


def judge(folder: Path, data: str) -> dict:
    "The row of a run."
    run = load_run(folder)
    ready, model = load_data(data, run.config), Judged(run.model, replace(run.config, components=0), "seg")
    row = {"run": folder.name, "method": run.config.method, "seed": run.config.seed}
    for name, part in {"validation": ready.seg_val, **{key: sets["segmentation"] for key, sets in ready.tests.items()}}.items():
        if part is None or not len(part):
            continue
        masks = predict(model, np.asarray(part.images)).masks > 0.5
        every, two = dice(masks, part), dice(largest_components(masks, 2), part)
        row |= {f"{name}_images": len(part), f"{name}_all": every.mean(), f"{name}_two": two.mean(),
                f"{name}_gain": (two - every > 0.01).sum(), f"{name}_lose": (every - two > 0.01).sum()}
    return row


def segments(config: Config) -> bool:
    "Whether such a run knows masks."
    return "segmentation" in METHODS[config.method].tasks


if __name__ == "__main__":
    rows = each_run(__doc__, segments, judge)
    shown = [column for column in rows if column.endswith(("_all", "_two", "_gain", "_lose"))]
    print(rows.groupby("method")[shown].mean().round(4).T)
