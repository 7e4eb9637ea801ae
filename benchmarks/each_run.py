"""What the scripts that judge finished runs share: their command line, and rows that are written as they come."""
import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from multimix.experiments import load_run
from multimix.methods import Config


def each_run(text: str, wanted: Callable[[Config], bool], judge: Callable[[Path, str], dict | list[dict]]) -> pd.DataFrame:
    """The rows in FILE and `judge(folder, data)`, one row or several, of each finished run under RUNS that isn't there yet and whose config
    is `wanted`."""
    parser = argparse.ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    rows = pd.read_csv(args.out).to_dict("records") if args.out.exists() else []
    known = {row["run"] for row in rows}
    for folder in sorted(file.parent for root in args.folders for file in root.rglob("results.json")):
        if folder.name not in known and wanted(load_run(folder).config):
            found = judge(folder, args.data)
            rows += found if isinstance(found, list) else [found]
            pd.DataFrame(rows).to_csv(args.out, index=False, float_format="%.4f")
    if not rows:
        parser.error(f"{', '.join(map(str, args.folders))}: holds no finished run that can be judged so")
    return pd.DataFrame(rows)
