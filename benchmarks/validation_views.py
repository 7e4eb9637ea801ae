"""Which validation foresees the test? `python benchmarks/validation_views.py RUNS... --data DIR --out FILE.csv`

Every finished run under RUNS is judged on its validation images as they are, in strong views of 2 and of 4 operations (the mean AUROC of
`--draws` seeds), and in a third hospital, beside its result on the test sets. Then, over runs of the same seed, how well each of these
orders the runs as the test does (Spearman's rank correlation of what is left when each seed's mean is taken out). Rows are written as they
come; those in FILE stay.

The third hospital is Open-i (DIR/iu_xray, as `multimix download iu_xray` lays it out, or a copy whose table also knows the projections):
frontal images of adults whose reports are coded `normal`, against those with a word in `AIRSPACE`. Neither training nor the test sets know
it. Where the projection is empty, as in the download, images whose names end in -1001 stand for the frontal ones. Where it is known, these
are three quarters of the frontal images, and of them 4 % of the normal and 12 % of the ill show the chest from the side: numbers from the
two kinds of copies are not the same measure."""
import argparse
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from multimix.augmentation import strong_view
from multimix.data import InputError
from multimix.evaluation import predict
from multimix.experiments import load_data, load_run
from multimix.images import list_images, thumbnail
from multimix.judging import Judged
from multimix.table_runs import read_run

OPERATIONS = (2, 4)
MEASURES = ("clean", *(f"strong_{n}" for n in OPERATIONS), "third")
AIRSPACE = "pneumonia|infiltrate|consolidation|airspace disease"
FRONTAL = r"-1001\."  # in the name of a file whose projection is not known


@cache
def third_hospital(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    "Images (N, S, S) uint8 of Open-i, and whether each shows an opacity of the lung, (N,) bool. `InputError` where a kind is missing."
    tables = [pd.read_csv(folder / f"indiana_{name}.csv", dtype=str, keep_default_na=False) for name in ("reports", "projections")]
    rows, there = tables[0].merge(tables[1], on="uid"), {path.stem: path for path in list_images(folder / "images")}
    files = rows["filename"].map(lambda name: there.get(Path(name).stem))  # a copy may hold .jpg where its table says .png
    frontal = (rows["projection"] == "Frontal") | (rows["projection"] == "") & rows["filename"].str.contains(FRONTAL)
    ill, normal = (rows["MeSH"] + " " + rows["Problems"]).str.contains(AIRSPACE, case=False), rows["Problems"] == "normal"
    kept = frontal & files.notna() & (ill | normal)
    if ill[kept].nunique() < 2:
        raise InputError(f"{folder}: of {len(rows)} rows and {len(there)} images, {ill[kept].sum()} are frontal with an opacity and "
                         f"{(~ill[kept]).sum()} frontal and normal; both are needed: fetch it anew, or move it away to do without")
    return np.stack([thumbnail(file, size) for file in files[kept]]), ill[kept].to_numpy()


def in_strong_views(images: np.ndarray, operations: int, seed: int) -> np.ndarray:
    "The images (N, S, S) uint8, each in one strong view."
    view = strong_view(torch.from_numpy(np.array(images))[:, None], n=operations, generator=torch.Generator().manual_seed(seed))
    return (view.images[:, 0] * 255).round().byte().numpy()


def best_accuracy(labels: np.ndarray, probs: np.ndarray) -> float:
    "The accuracy on the test set with the threshold that is best on it: what a threshold, at most, can mend."
    false_alarms, found, _ = roc_curve(labels == 1, probs, drop_intermediate=False)
    ill = (labels == 1).mean()
    return float((found * ill + (1 - false_alarms) * (1 - ill)).max())


def judge(folder: Path, data: str, draws: int) -> dict:
    "The row of a run."
    run, kept = load_run(folder), read_run(folder)
    part, model = load_data(data, run.config).cls_val, Judged(run.model, run.config, "cls")
    known = part.labels >= 0

    def auroc(images):
        return roc_auc_score(part.labels[known] == 1, predict(model, images, masks=False).probs[known, 1])

    strong = {f"strong_{n}": np.mean([auroc(in_strong_views(part.images, n, seed)) for seed in range(draws)]) for n in OPERATIONS}
    test, other = (kept.results[domain]["classification"] for domain in ("in_domain", "cross_domain"))
    row = {"run": folder.name, "seed": run.config.seed, "images": int(known.sum()), "clean": auroc(np.array(part.images)), **strong}
    if (third := Path(data) / "iu_xray").is_dir():
        images, ill = third_hospital(third, run.config.size)
        row["third"] = roc_auc_score(ill, predict(model, images, masks=False).probs[:, 1])
    if numbers := kept.numbers.get("in_domain", {}).get("classification"):
        row["best_accuracy"] = best_accuracy(numbers["labels"], numbers["probs"][:, 1])
    return row | {"test": test["auroc"], "test_accuracy": test["accuracy"], "other_hospital": other["auroc"]}


def agreement(table: pd.DataFrame) -> pd.Series:
    "Rank correlation of each measure with the test, within the seeds."
    known = [name for name in MEASURES if name in table]
    scores = table[[*known, "test"]]
    return (scores - scores.groupby(table["seed"]).transform("mean")).corr(method="spearman")["test"][known]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = pd.read_csv(args.out).to_dict("records") if args.out.exists() else []
    done = {row["run"] for row in rows}
    for file in sorted(file for folder in args.runs for file in folder.glob("**/results.json")):
        folder = file.parent
        if folder.name not in done and "classification" in read_run(folder).results["in_domain"]:
            rows.append(judge(folder, args.data, args.draws))
            pd.DataFrame(rows).round(4).to_csv(args.out, index=False)
            print(folder.name, *(f"{name} {rows[-1][name]:.3f}" for name in (*MEASURES, "test") if name in rows[-1]), flush=True)
    print(f"{len(rows)} runs; rank correlation with the test within seeds:", agreement(pd.DataFrame(rows)).round(2).to_dict())


if __name__ == "__main__":
    main()
