"""How many unlabelled children a run calls ill, and how many are: `python benchmarks/called_ill.py RUNS ... --data DIR --out FILE.csv`

For every finished run under RUNS that classifies and was not told all labels: the share of its unlabelled images that it calls ill and the
share that is, then sensitivity and specificity on the test set. Where the first two differ, the threshold lies wrong, whatever the ranking.
Rows are written as they come; those in FILE stay."""
from pathlib import Path

import numpy as np
from each_run import each_run

from multimix.evaluation import predict
from multimix.experiments import load_data, load_run
from multimix.judging import Judged
from multimix.methods import METHODS, Config
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


def classifies(config: Config) -> bool:
    "Whether such a run knows classes, and was not told all labels."
    return "classification" in METHODS[config.method].tasks and config.labels != "all"


if __name__ == "__main__":
    rows = each_run(__doc__, classifies, judge)
    print(rows.groupby(["method", "balance"])[["called_ill", "truly_ill", "sensitivity", "specificity"]].mean().round(3))
