"""Data and configs so small that a training step takes a moment: for the tests of methods, step and training."""
from functools import cache

from multimix.data import MultiTaskData
from multimix.methods import Config, make_config
from multimix.phantom import make_phantom


@cache
def tiny_data(labels: int | None = 6, masks: int | None = 3, seed: int = 0) -> MultiTaskData:
    "Phantoms of 32 pixels: 40 for the classes, 12 with masks, a tenth of each held out."
    cls, seg = make_phantom(40, 32, 1, task="classification"), make_phantom(12, 32, 2, task="segmentation")
    return MultiTaskData.from_sets(cls, seg, {}, labels=labels, masks=masks, seed=seed)


def tiny_config(preset: str = "corrected", **changes) -> Config:
    "Batches of two, a narrow network, and a plain threshold."
    return make_config(preset, **(dict(policy="fixed", size=32, batch=2, unlabeled=3, width=4, steps=6) | changes))
