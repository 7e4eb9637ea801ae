"""The parts of the project agree: settings, packaging, notebooks, modules, README and the plan in CONTRIBUTING.md."""
import ast
import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest

import multimix
from multimix.grid import read_grid

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.name != "index.ipynb"]
MODULES = sorted(path for path in (ROOT / "multimix").glob("*.py") if not path.name.startswith("_"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list[dict]:
    "The cells of one kind, each with its source joined."
    nb = json.loads(path.read_text(encoding="utf-8"))
    return [{**cell, "source": "".join(cell["source"])} for cell in nb["cells"] if cell["cell_type"] == kind]


@pytest.fixture(scope="session")
def settings() -> ConfigParser:
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser


@pytest.fixture(scope="session")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    "A copy of the project whose modules are exported and whose notebooks are cleaned anew."
    copy = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (copy / "multimix").mkdir()
    for name in ("__init__.py", "__main__.py"):  # the two that no notebook exports
        shutil.copy(ROOT / "multimix" / name, copy / "multimix")
    environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    code = "from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; nbdev_export(); nbdev_clean()"
    subprocess.run([sys.executable, "-c", code], cwd=copy, env=environment, check=True)
    return copy


# settings.ini is the one place


def test_the_version_is_the_same_everywhere(settings):
    version = settings["DEFAULT"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert multimix.__version__ == version
    assert metadata.version("multimix") == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_setup_hands_over_the_settings(settings):
    names = {"name": "Name", "version": "Version", "description": "Summary", "author": "Author", "license": "License", "url": "Home-page"}
    installed = metadata.metadata("multimix")
    assert {name: installed[field] for name, field in names.items()} == {name: settings["DEFAULT"][name] for name in names}
    scripts = {f"{e.name}={e.value}" for e in metadata.entry_points(group="console_scripts") if e.value.startswith("multimix")}
    assert scripts == set(settings["DEFAULT"]["console_scripts"].split())


def test_what_is_installed_asks_for_the_requirements_and_extras_of_the_settings(settings):
    def plain(requirement):
        return re.sub(r"[\s\"']", "", requirement).lower()

    wanted = {plain(r) for r in settings["DEFAULT"]["requirements"].split()}
    extras = [name for name in settings["extras"] if name not in settings.defaults()]
    wanted |= {plain(f"{r}; extra == {name}") for name in extras for r in settings["extras"][name].split()}
    assert {plain(r) for r in metadata.requires("multimix")} == wanted
    assert set(metadata.metadata("multimix").get_all("Provides-Extra")) == set(extras)
    assert metadata.metadata("multimix")["Requires-Python"] == ">=" + settings["DEFAULT"]["min_python"]


def test_pyproject_repeats_only_what_it_must(settings, pyproject):
    project = pyproject["project"]
    assert set(project) == {"name", "requires-python", "dynamic"}
    assert project["name"] == settings["DEFAULT"]["name"] == pyproject["tool"]["nbdev"]["lib_path"]
    assert project["requires-python"] == ">=" + settings["DEFAULT"]["min_python"]
    lowest = settings["DEFAULT"]["min_python"].replace(".", "")
    assert pyproject["tool"]["ruff"]["target-version"] == "py" + lowest


def test_no_requirement_is_pinned_from_above(settings):
    asked = settings["DEFAULT"]["requirements"].split() + [r for name in settings["extras"] for r in settings["extras"][name].split()]
    assert not [r for r in asked if re.search(r"[<~]|==", r.split(";")[0])]


@each_module
def test_what_a_module_imports_is_required(settings, path):
    packages = {"PIL": "pillow", "sklearn": "scikit-learn", "cv2": "opencv-python-headless"}
    declared = settings["DEFAULT"]["requirements"].split()
    declared += [r for name in settings["extras"] if name != "dev" for r in settings["extras"][name].split()]
    allowed = {re.match(r"[\w-]+", r)[0] for r in declared} | set(sys.stdlib_module_names)
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert not [name for name in names if packages.get(root := name.split(".")[0], root) not in allowed]


# the notebooks are the source


def test_modules_are_what_the_notebooks_export(exported):
    def contents(folder):
        return {path.name: path.read_text(encoding="utf-8") for path in (folder / "multimix").glob("*.py")}

    ours, fresh = contents(ROOT), contents(exported)
    assert set(ours) == set(fresh)
    assert [name for name in ours if ours[name] != fresh[name]] == [], "run nbdev-export"


@each_notebook
def test_notebook_is_clean(exported, path):
    assert path.read_bytes() == (exported / "nbs" / path.name).read_bytes(), "run nbdev-clean"


@each_notebook
def test_notebook_was_run_without_errors(path):
    code = cells(path, "code")
    assert any(cell["outputs"] for cell in code)
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]


@each_notebook
def test_notebook_is_small(path):
    assert path.stat().st_size < 1_500_000
    pictures = [out["data"]["image/png"] for cell in cells(path, "code") for out in cell["outputs"] if "image/png" in out.get("data", {})]
    assert all(len(picture) * 3 / 4 < 100_000 for picture in pictures)


@each_notebook
def test_code_cells_are_short(path):
    def length(cell):
        return len([line for line in cell["source"].splitlines() if line.strip() and not line.startswith("#|")])

    assert max(map(length, cells(path, "code"))) <= 20


@each_notebook
def test_notebook_opens_like_the_others(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    text, code = ([cell["source"] for cell in cells(path, kind)] for kind in ("markdown", "code"))
    assert re.match(r"# .+\n\n?> .+", text[0]), "a title, then a line that begins with >"
    assert f"blob/main/nbs/{path.name})" in "\n".join(text[:2]), "the Colab badge opens this notebook"
    setup = [cell["source"] for cell in cells(ROOT / "nbs/index.ipynb", "code") if "cellView" in cell["metadata"]]
    forms = [cell["source"] for cell in cells(path, "code") if "cellView" in cell["metadata"]]
    assert forms[:1] == setup and len(forms) == (1 if path.stem == "index" else 2), "the set-up cell, and in a lesson the map"
    assert "colab" in nb["metadata"] and "widgets" not in nb["metadata"] and nb["metadata"]["accelerator"] == "GPU"
    assert not [source for source in code if re.search(r"^\s*(import|from) nbdev", source, re.M)]


@each_lesson
def test_lesson_ends_with_exercises(path):
    text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    assert re.search(r"exercise", text, re.I) and "<details>" in text


@each_module
def test_module_is_short(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 250


def test_modules_import_only_from_floors_below():
    plan = re.findall(r"^\| `(\w+)` \| `\w+` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert set(plan) == {path.stem for path in MODULES}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("multimix")):
                module = (node.module or "").removeprefix("multimix").lstrip(".")
                assert not module or plan.index(module) < plan.index(path.stem), f"{path.stem} imports {module}"


# the first page


def readme_script():
    spec = importlib.util.spec_from_file_location("make_readme", ROOT / "nbs/make_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_is_current():
    made = readme_script().make_readme()
    there = {"README.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "nbs/images").glob("index_*"))}
    assert set(made) == there, "run python nbs/make_readme.py"
    assert [name for name in made if (ROOT / name).read_bytes() != made[name]] == [], "run python nbs/make_readme.py"


def test_readme_has_two_commands_each_one_line():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python3 -m venv .*$", text, re.M)
    assert len(commands) == 2
    assert all(f"```bash\n{command}\n```" in text for command in commands)
    assert "multimix train" in commands[0] and "nbdev-test" in commands[1] and "-m pytest" in commands[1]


def test_first_page_lists_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\|.*\]\(nbs/(\w+\.ipynb)\).*blob/main/nbs/(\w+\.ipynb)\)", text, re.M)
    assert sorted(listed) == sorted((path.name, path.name) for path in LESSONS)


def test_links_of_the_text_files_lead_somewhere():
    docs = ("docs/table.md", "docs/benchmarks.md", "docs/results/README.md")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data_download/README.md", *docs):
        path = ROOT / name
        links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", path.read_text(encoding="utf-8"))
        assert not [link for link in links if not (path.parent / link).exists()], name


@each_notebook
def test_links_of_the_notebook_lead_somewhere(path):
    text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+\.(?:ipynb|md))", text)
    assert not [link for link in links if not (path.parent / link).exists()]


def test_the_grid_and_the_program_that_docs_show_can_be_read():
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/table.md").read_text(encoding="utf-8"), re.M | re.S)
    grids, programs = ([text for kind, text in blocks if kind == wanted] for wanted in ("toml", "python"))
    assert grids and programs
    for text in grids:
        assert read_grid(tomllib.loads(text))
    for text in programs:
        ast.parse(text)


def test_the_table_of_results_counts_the_runs_of_each_grid():
    folder = ROOT / "docs/results"
    table = (folder / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| \[(\w+)\.toml\]\(\1\.toml\) \|.*\| (\d+) of (\d+) \|", table, re.M)
    assert sorted(name for name, *_ in rows) == sorted(path.stem for path in folder.glob("*.toml"))
    for name, made, asked in rows:
        file = folder / f"{name}.csv"
        with open(file if file.exists() else os.devnull, encoding="utf-8", newline="") as lines:
            assert (name, int(made), int(asked)) == (name, len(list(csv.DictReader(lines))), len(read_grid(folder / f"{name}.toml")))


def test_ci_runs_the_commands_of_the_readme():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    command = "python3 tests/browser/run.py"
    assert f"```bash\n{command}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^{command} ", script.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("apt", [None, "exit 100"])
def test_where_no_chromium_can_be_had_the_tests_in_a_browser_are_skipped(tmp_path, apt):
    if apt is not None:
        (tmp_path / "apt-get").write_text(f"#!/bin/sh\n{apt}\n")
        (tmp_path / "apt-get").chmod(0o755)
    environment = {**{k: v for k, v in os.environ.items() if k != "MULTIMIX_CHROMIUM"}, "PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, ROOT / "tests/browser/run.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].startswith("browser tests skipped: no Chromium")
    assert ("apt-get failed" in done.stdout) == (apt is not None and os.geteuid() == 0)
