"""Runs notebooks as Colab does: each is copied alone into an empty folder and run from top to bottom by a kernel of this environment,
from the installed package. `run.py --notebooks` calls it."""
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "nbs"
LONG = 60  # seconds; such notebooks are named
CHECK = """import sys, types, IPython, ipykernel, ipywidgets, multimix
sys.modules["google.colab"] = types.ModuleType("google.colab")  # what a notebook knows Colab by
assert [IPython.__version__, ipykernel.__version__, ipywidgets.__version__] == {versions}
assert multimix.__file__.startswith(sys.prefix), multimix.__file__
assert not [p for p in sys.path if p.startswith({checkout!r}) and not p.startswith(sys.prefix)], sys.path"""


def pins() -> list[str]:
    "The versions of IPython, ipykernel and ipywidgets that Colab has."
    lines = Path(__file__).with_name("colab.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split("==") for line in lines if "==" in line)
    return [found[name] for name in ("ipython", "ipykernel", "ipywidgets")]


def run_alone(path: Path) -> tuple[float, str]:
    "Seconds, and what went wrong, or nothing."
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    with tempfile.TemporaryDirectory() as folder:
        alone = Path(shutil.copy(path, folder))
        nb = nbformat.read(alone, 4)
        check = CHECK.format(versions=pins(), checkout=str(NOTEBOOKS.parent))
        nb.cells.insert(0, nbformat.v4.new_code_cell(check))
        start = time.perf_counter()
        try:
            NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return time.perf_counter() - start, str(error)[-2000:]
        return time.perf_counter() - start, ""


def main(names: list[str]) -> int:
    paths = sorted(path for path in NOTEBOOKS.glob("*.ipynb") if not names or path.stem in names)
    if missing := set(names) - {path.stem for path in paths}:
        print(f"no such notebook: {', '.join(sorted(missing))}", file=sys.stderr)
        return 2
    failed, slow, total = [], [], 0.0
    for path in paths:
        seconds, wrong = run_alone(path)
        total += seconds
        print(f"{path.stem:24s} {seconds:6.1f} s  {'failed' if wrong else 'ok'}", flush=True)
        failed += [path.stem] * bool(wrong)
        slow += [path.stem] * (seconds > LONG)
        if wrong:
            print(wrong, flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} notebooks ran alone in {total:.0f} s; failed: {', '.join(failed) or 'none'}; "
          f"over {LONG} s: {', '.join(slow) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the kernel's debugger, else, warns of Python's own modules
    sys.exit(main(sys.argv[1:]))
