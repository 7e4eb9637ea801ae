"Folders of runs whose answers are made up: for the tests of predictions, tables, comparisons and their report."
import json
from pathlib import Path

import numpy as np

from multimix.data import ImageSet, MultiTaskData
from multimix.evaluation import Predictions, evaluate
from multimix.grid import cell_name
from multimix.methods import METHODS
from multimix.predictions import save_predictions

CLASSES = ("normal", "pneumonia")


def made_data(n: int = 60, seed: int = 0, patients: bool = False) -> MultiTaskData:
    "Noise with square lungs; both domains have `n` images that serve both tasks."
    rng, tests = np.random.default_rng(seed), {}
    for domain in ("in_domain", "cross_domain"):
        masks = np.zeros((n, 1, 16, 16), np.uint8)
        masks[:, :, 3:12, 4:12] = 1
        names = [f"{domain}-{seed}-{i}.png" for i in range(n)]
        people = np.array([f"p{i // 2}" for i in range(n)]) if patients else None
        images = rng.integers(0, 256, (n, 16, 16), dtype=np.uint8)
        test = ImageSet(images, names, labels=np.arange(n) % 2, masks=masks, patients=people, classes=CLASSES)
        tests[domain] = {task: test for task in ("classification", "segmentation")}
    return MultiTaskData(tests=tests, classes=CLASSES)


def made_answers(test: ImageSet, skill: float, luck: float, seed) -> Predictions:
    "Class 1 is as clear as `skill`, masks are shifted by a pixel or two; `luck` belongs to the seed."
    hard, own = np.random.default_rng(0).normal(0, 1, len(test)), np.random.default_rng(seed)
    z = (skill + luck * own.normal()) * (test.labels - 0.5) + hard + 0.3 * own.normal(size=len(test))
    shift = np.clip(np.round(1 + hard / 2 + luck * own.normal() + 0.3 * own.normal(size=len(test))), 0, 4).astype(int)
    masks = np.stack([np.roll(m, s, 2) for m, s in zip(test.masks, shift)]).astype(np.float32)
    p = 1 / (1 + np.exp(-2 * z))
    return Predictions(np.stack([1 - p, p], 1).astype(np.float32), masks)


def made_run(folder, data: MultiTaskData, method: str, seed: int, skill: float = 2.0, luck: float = 0.3, keep: bool = True,
             **settings) -> Path:
    "The folder of a finished run, named as a table names it."
    chance = [seed, list(METHODS).index(method)]
    found = {d: {t: made_answers(sets[t], skill, luck, [*chance, len(d)]) for t in METHODS[method].tasks} for d, sets in data.tests.items()}
    kept = dict(labels=100, masks=10, size=16, steps=30) | settings
    place = Path(folder) / cell_name(kept | dict(method=method, seed=seed))
    place.mkdir(parents=True)
    if keep:
        save_predictions(place, found, data)
    results = dict(method=method, preset="corrected", seed=seed, seconds=0.0) | kept | evaluate(None, data, predictions=found, bootstrap=0)
    (place / "results.json").write_text(json.dumps(results))
    return place
