"""The widgets in a real browser, twice: under today's ipywidgets, and under the versions that Colab has.

    python3 tests/browser/run.py                       drives every widget in Chromium; screenshots go to tests/browser/screenshots
    python3 tests/browser/run.py --notebooks [NAME..]  runs each notebook as Colab does: the wheel, the notebook alone, top to bottom

Needs nothing but Python (Linux or macOS). The packages come into virtual environments in the project's folder: `.venv-test`, the
README's, has torch and all that is large; `.venv-browser-today` and `.venv-browser-colab` lie over it and hold Jupyter, each in its
own version, and the project's wheel. Chromium is looked for by name, and installed with apt-get where that is there and you are
root. Without Chromium the tests are skipped, and the last line says so."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from functools import partial
from pathlib import Path

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
SETS = {"today": ["ipywidgets>=8"], "colab": ["-r", str(HERE / "colab.txt")]}
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def call(command: list, **options) -> None:
    "Run a command; its failure is ours, without a traceback."
    if code := subprocess.run([str(part) for part in command], **options).returncode:
        raise SystemExit(code)


def pip(python: Path, *arguments) -> None:
    call([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], cwd=ROOT)


def runs(command: list) -> bool:
    "Whether a command can be started and says that all is well."
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_chromium() -> str | None:
    "The path of a Chromium that shows an empty page; the environment variable MULTIMIX_CHROMIUM may name another one."
    for name in filter(None, (os.environ.get("MULTIMIX_CHROMIUM"), *NAMES)):
        if (path := shutil.which(name)) and runs([path, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "about:blank"]):
            return path
    return None


def install_chromium() -> str | None:
    "With Debian's apt-get, as root; None where that isn't possible or fails."
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return None
    print("== installing Chromium with apt-get", flush=True)
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "stdout": subprocess.DEVNULL}
    apt = ["apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"]
    try:
        subprocess.run([*apt, "update"], timeout=240, **quiet)  # may fail for a list that isn't needed
        install = ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
        subprocess.run([*apt, *install], check=True, timeout=1800, **quiet)  # long: what is half installed is worse than what is missing
    except (OSError, subprocess.SubprocessError) as error:
        print(f"apt-get failed: {error}", flush=True)
    return find_chromium()


def browser_extra() -> list[str]:
    "What the extra `browser` of settings.ini asks for."
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["extras"]["browser"].split()


def base_python() -> Path:
    "The Python of `.venv-test`, made as the README's second command makes it."
    python = ROOT / ".venv-test/bin/python"
    if not runs([python, "-c", "import torch, pytest, pydicom"]):
        print("== making .venv-test", flush=True)
        call([sys.executable, "-m", "venv", ROOT / ".venv-test"])
        pip(python, "-e", ".[dev]")
    return python


def make_wheel(python: Path, folder: Path) -> Path:
    "The project's wheel, from a copy of what belongs into it."
    source = folder / "source"
    shutil.copytree(ROOT / "multimix", source / "multimix", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    call([python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source])
    [wheel] = folder.glob("*.whl")
    return wheel


def layered(name: str, base: Path, wheel: Path) -> Path:
    "The Python of an environment with one set of Jupyter and the wheel, which finds everything else in the environment of `base`."
    folder = ROOT / f".venv-browser-{name}"
    print(f"== making {folder.name}", flush=True)
    python = folder / "bin/python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    under, own = (Path(subprocess.check_output([p, "-c", show], text=True).strip()) if p.exists() else None for p in (base, python))
    if own is None or own.parent.name != under.parent.name or not runs([python, "-m", "pip", "--version"]):
        call([base, "-m", "venv", "--clear", folder])
        own = Path(subprocess.check_output([python, "-c", show], text=True).strip())
    link = own / "base.pth"
    link.unlink(missing_ok=True)  # pip must not see what lies below: Jupyter is to be here whole
    pip(python, *browser_extra(), "nbclient", "ipykernel", *SETS[name])
    link.write_text(f"{under}\n", encoding="utf-8")
    pip(python, "--no-deps", "--force-reinstall", wheel)
    return python


def environment(name: str) -> dict[str, str]:
    "One core, no data from elsewhere, nothing of the caller's Python."
    dropped = ("MULTIMIX_DATA", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "IN_TEST")
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("JUPYTER")}
    return {"OMP_NUM_THREADS": "1", **kept, "MULTIMIX_JUPYTER": name, "MULTIMIX_SCREENSHOTS": str(HERE / "screenshots" / name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", nargs="*", metavar="NAME", help="run these notebooks (or all) as Colab does, and no browser")
    parser.add_argument("--base", type=Path, help="the Python of an environment that has the project's requirements, instead of .venv-test")
    parser.add_argument("pytest", nargs="*", help="options for pytest, after --")
    args, alone = (options := parser.parse_args()), options.notebooks is not None
    base = args.base and args.base.absolute()  # not resolved: the Python of an environment is a link
    os.chdir(ROOT)
    chromium = None if alone else find_chromium() or install_chromium()
    if not alone and chromium is None:
        print("browser tests skipped: no Chromium here. Install it (as root: apt-get install chromium), or name it in MULTIMIX_CHROMIUM")
        return
    base = base or base_python()
    with tempfile.TemporaryDirectory() as folder:
        wheel = make_wheel(base, Path(folder))
        pythons = {name: layered(name, base, wheel) for name in (["colab"] if alone else SETS)}
    failed = []
    for name, python in pythons.items():
        start = time.perf_counter()
        what = [HERE / "alone.py", *args.notebooks] if alone else ["-m", "pytest", HERE, "-p", "no:cacheprovider", *args.pytest]
        print(f"== {'notebooks' if alone else 'widgets'}, {name}", flush=True)  # -I: the wheel, not the checkout
        run = partial(subprocess.run, [python, "-I", *what], env={**environment(name), "MULTIMIX_CHROMIUM": chromium or ""})
        if (code := run().returncode) == 1 and not alone:  # tests failed; a machine that stalls makes a page late: once more, and say so
            print(f"== widgets, {name}, a second time", flush=True)
            code = run().returncode
        print(f"{name}: {'failed' if code else 'passed'} in {time.perf_counter() - start:.0f} s", flush=True)
        failed += [name] * bool(code)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
