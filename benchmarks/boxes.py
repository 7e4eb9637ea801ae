"""How well maps point at radiologists' boxes: `python benchmarks/boxes.py RUNS ... --data DIR --out FILE.csv`

For every finished run under RUNS that classifies, and each of `ATTRIBUTIONS`: maps of the class pneumonia for the images of ChestX-ray14
(DIR/nih) with boxes around it, whatever the run calls them (`called_ill`: the share that it calls ill). `hits` is the pointing game, the
share of maps whose largest value lies in a box, `energy` the mean share of a map's positive sum that lies in the boxes. Maps are judged as
`multimix.saliency.attribute` gives them, neither smoothed nor with a tolerance.

Beside them stands what needs no training: `untrained_hits` and `untrained_energy` of the same network with weights drawn anew; `chance`,
the boxes' mean share of the image, which a random point and an even map get; `centre_hits` of a point in the middle of the image; and
`others_hits` and `others_energy` of the mean of other patients' boxes, which knows where pneumonia tends to lie and has not seen the
image. All runs see the same few images: more seeds are not more images.

Rows are written as they come, all of a run together; those in FILE stay."""
from functools import cache
from pathlib import Path

import numpy as np
from each_run import each_run

from multimix.data import ImageSet, InputError
from multimix.datasets import load_nih
from multimix.evaluation import predict
from multimix.experiments import load_run
from multimix.judging import Judged
from multimix.methods import METHODS, Config
from multimix.predictions import class_names
from multimix.saliency import attribute, box_mask, energy_in_box, pointing_game, randomised

ATTRIBUTIONS = ("gradient", "smoothgrad", "integrated_gradients", "grad_cam")


@cache
def boxed_images(data: str, size: int) -> ImageSet:
    "The images of ChestX-ray14 with boxes of pneumonia, in pixels of `size`, and patients. `InputError` for fewer than two patients."
    images = load_nih(data, size, progress=False)
    found = images.subset([i for i, boxes in enumerate(images.boxes) if len(boxes)])
    if len(set(found.patients)) < 2:
        raise InputError(f"{data}: boxes of pneumonia on {len(found)} images in nih/, two patients are needed: see BBox_List_2017.csv")
    return found


@cache
def without_network(data: str, size: int) -> dict[str, float]:
    "What maps score that know no network: see the top of this file."
    images = boxed_images(data, size)
    inside = np.stack([box_mask(boxes, size, size) for boxes in images.boxes]).astype(float)
    others = np.stack([inside[images.patients != patient].mean(0) for patient in images.patients])
    centre, middle = np.zeros_like(inside), slice((size - 1) // 2, size // 2 + 1)  # of an even size, its four middle pixels
    centre[:, middle, middle] = 1
    known = pointing_game(others, images.boxes)
    return {"chance": known.chance, "centre_hits": pointing_game(centre, images.boxes).value, "others_hits": known.value,
            "others_energy": energy_in_box(others, images.boxes).value}


def judge(folder: Path, data: str) -> list[dict]:
    "The rows of a run. `InputError` where it does not know pneumonia."
    run, classes = load_run(folder), [name.casefold() for name in class_names(folder) or ("normal", "pneumonia")]
    if "pneumonia" not in classes:
        raise InputError(f"{folder}: was trained on the classes {', '.join(classes)}; the boxes are of pneumonia")
    config, images, ill = run.config, boxed_images(data, run.config.size), classes.index("pneumonia")
    models = {"": Judged(run.model, config, "cls"), "untrained_": Judged(randomised(run.model, config.seed), config, "cls")}
    batch = 64 if config.size <= 128 else 8
    called = predict(models[""], np.asarray(images.images), batch, masks=False).probs.argmax(1) == ill
    kept, rows = {key: getattr(config, key) for key in ("method", "preset", "seed", "size")}, []
    for name in ATTRIBUTIONS:
        row = {"run": folder.name, **kept, "attribution": name, "images": len(images), "called_ill": called.mean()}
        for which, model in models.items():
            maps = attribute(model, images.images, name, ill, batch_size=batch).maps
            row |= {f"{which}hits": pointing_game(maps, images.boxes).value, f"{which}energy": energy_in_box(maps, images.boxes).value}
        rows.append(row | without_network(data, config.size))
    return rows


def classifies(config: Config) -> bool:
    "Whether such a run knows classes."
    return "classification" in METHODS[config.method].tasks


if __name__ == "__main__":
    rows = each_run(__doc__, classifies, judge)
    shown = [column for column in rows if column.endswith(("hits", "energy", "chance"))]
    print(rows.groupby(["method", "preset", "size", "attribution"])[shown].mean().round(3).to_string())
