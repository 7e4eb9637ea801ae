"""What runs call lung on the same test images: `python benchmarks/outlines.py RUN RUN ... --data DIR --out FILE.png`

One row a run, one column an image: those that stand at `--shares` of the first run's Dice, from the worst up. Truth green, prediction red;
above each picture its Dice. The runs must know masks, have one size, and the first must have kept its predictions.npz."""
import argparse
from pathlib import Path

import numpy as np

from multimix.evaluation import predict
from multimix.experiments import load_data, load_run
from multimix.figures import boundary_figure
from multimix.judging import Judged
from multimix.table_runs import read_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", help="what the rows are called (default: the folders)")
    parser.add_argument("--data", required=True)
    parser.add_argument("--domain", default="cross_domain")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.05, 0.1, 0.25, 0.5])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    runs = [load_run(folder) for folder in args.runs]
    test = load_data(args.data, runs[0].config).tests[args.domain]["segmentation"]
    order = np.argsort(read_run(args.runs[0]).numbers[args.domain]["segmentation"]["dice"], kind="stable")
    at = order[[min(int(share * len(order)), len(order) - 1) for share in args.shares]]
    images, truth = np.asarray(test.images)[at], np.asarray(test.masks)[at]
    said = np.concatenate([predict(Judged(run.model, run.config, "seg"), images).masks for run in runs])
    names = np.repeat(args.names or [folder.name for folder in args.runs], len(at))
    repeated = [np.concatenate([part] * len(runs)) for part in (images, truth)]
    boundary_figure(*repeated, said, names, columns=len(at)).savefig(args.out, dpi=60)


if __name__ == "__main__":
    main()
