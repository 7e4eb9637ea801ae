"""What runs call lung on the same test images: `python benchmarks/outlines.py RUN RUN ... --data DIR --out FILE.png`

One row a run, one column an image: those that stand at `--shares` of the first run's Dice, from the worst up. Truth green, prediction red;
under each picture its Dice. The runs must know masks, have one size, and have kept their predictions.npz."""
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from multimix.evaluation import predict
from multimix.experiments import Judged, load_data, load_run
from multimix.table_runs import read_run


def ranked(folder: Path, domain: str, shares: list[float]) -> np.ndarray:
    "Where in the test set the images stand whose Dice is at `shares` of the run's, from the worst up."
    order = np.argsort(read_run(folder).numbers[domain]["segmentation"]["dice"], kind="stable")
    return order[[min(int(share * len(order)), len(order) - 1) for share in shares]]


def row(axes, folder: Path, name: str, domain: str, data: str, at: np.ndarray) -> None:
    "The images `at` with the outlines of one run."
    run = load_run(folder)
    test = load_data(data, run.config).tests[domain]["segmentation"]
    images, truth = np.asarray(test.images)[at], np.asarray(test.masks)[at]
    masks = predict(Judged(run.model, run.config, "seg"), images).masks
    dice = read_run(folder).numbers[domain]["segmentation"]["dice"][at]
    axes[0].set_ylabel(name, fontsize=8)
    for ax, image, known, mask, score in zip(axes, images, truth, masks, dice):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.contour(np.squeeze(known), [0.5], colors="lime", linewidths=1)
        ax.contour(mask[0], [0.5], colors="red", linewidths=1)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(f"Dice {score:.2f}", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", help="what the rows are called (default: the folders)")
    parser.add_argument("--data", required=True)
    parser.add_argument("--domain", default="cross_domain")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.05, 0.1, 0.25, 0.5])
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    at, names = ranked(args.runs[0], args.domain, args.shares), args.names or [run.name for run in args.runs]
    size = 1.5 * len(at), 1.75 * len(args.runs)
    fig, axes = plt.subplots(len(args.runs), len(at), figsize=size, layout="constrained", squeeze=False)
    for line, run, name in zip(axes, args.runs, names, strict=True):
        row(line, run, name, args.domain, args.data, at)
    fig.savefig(args.out, dpi=60)


if __name__ == "__main__":
    main()
