"""How many unlabelled images taught in the second half of each run of a table, and how many of their pseudo-labels were right.

    python benchmarks/kept.py runs/thresholds_64 --out docs/results/thresholds_64_kept.csv

Reads each run's history.csv; the truth of the unlabelled images is in it for counting alone, no run learns from it."""
import argparse
import json
from pathlib import Path

import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of a table's runs")
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write, one row a run")
    args, rows = parser.parse_args(), []
    for folder in sorted(path.parent for path in args.runs.glob("*/results.json")):
        config, history = json.loads((folder / "config.json").read_text()), pd.read_csv(folder / "history.csv")
        late = history[history["step"] > config["steps"] // 2]
        if "kept" in late:
            shares = {"kept": late["kept"].mean(), "right": late["pseudo_precision"].mean()}
            rows.append({key: config[key] for key in ("method", "policy", "threshold", "seed")} | shares)
    pd.DataFrame(rows).sort_values(["method", "policy", "threshold", "seed"]).round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
