"""How many unlabelled children a run calls ill, and how many are: `python benchmarks/called_ill.py RUNS ... --data DIR --out FILE.csv`

For every finished run under RUNS that classifies and was not told all labels: the share of its unlabelled images that it calls ill and the
share that is, then sensitivity and specificity on the test set. Where the first two differ, the threshold lies wrong, whatever the ranking.
Rows are written as they come; those in FILE stay."""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from multimix.evaluation import predict
from multimix.experiments import Judged, load_data, load_run
from multimix.methods import METHODS
from multimix.table_runs import read_run


def judge(folder: Path, data: str) -> dict:
    "The row of a run."
    run, kept = load_run(folder), read_run(folder).numbers["in_domain"]["classification"]
    ready = load_data(data, run.config)
    called = predict(Judged(run.model, run.config, "cls"), np.asarray(ready.cls_unlabeled.images), masks=False).probs[:, 1] > 0.5
    test, ill = kept["probs"][:, 1] > 0.5, kept["labels"] == 1
    return {"run": folder.name, "balance": run.config.balance, "method": run.config.method, "seed": run.config.seed, "images": len(called),
            "called_ill": called.mean(), "truly_ill": (np.asarray(ready.withheld["cls_unlabeled"]) == 1).mean(),
            "sensitivity": test[ill].mean(), "specificity": (~test[~ill]).mean()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    rows = pd.read_csv(args.out).to_dict("records") if args.out.exists() else []
    known = {row["run"] for row in rows}
    for folder in sorted(file.parent for root in args.folders for file in root.rglob("results.json")):
        config = load_run(folder).config
        if folder.name not in known and "classification" in METHODS[config.method].tasks and config.labels != "all":
            rows.append(judge(folder, args.data))
            pd.DataFrame(rows).to_csv(args.out, index=False, float_format="%.4f")
    print(pd.DataFrame(rows).groupby(["method", "balance"])[["called_ill", "truly_ill", "sensitivity", "specificity"]].mean().round(3))


if __name__ == "__main__":
    main()
