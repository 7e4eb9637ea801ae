"""The head of every lesson: badges, a set-up cell that changes nothing it need not, the map with its room lit; and pictures of widgets."""
import importlib.metadata
import importlib.util
import io
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from PIL import Image

from multimix.images import InputError
from multimix.rooms import PATHS, ROOMS, Map, draw_map, room_of

ROOT = Path(__file__).resolve().parents[1]
# What Colab had in August 2026, by the list that its makers publish (googlecolab/backend-info, pip-freeze.txt), with Python 3.13.
# What is missing here is missing there.
COLAB = {"torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.1.3", "matplotlib": "3.10.0", "opencv-python-headless": "5.0.0.93",
         "pillow": "11.3.0", "ipywidgets": "7.7.1", "gdown": "5.2.2", "requests": "2.32.4", "urllib3": "2.5.0", "scikit-learn": "1.6.1",
         "scipy": "1.16.3", "pandas": "2.2.3", "tqdm": "4.67.3", "joblib": "1.5.3"}


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"nbs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


heads = script("make_heads")
LESSONS = {path.stem: path for path in heads.lessons()}
SETUP = heads.setup_source()


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_the_head_of_all(name):
    assert not heads.mend(nbformat.read(LESSONS[name], 4), name, SETUP), "run python nbs/make_heads.py, then nbdev-clean"


@pytest.mark.parametrize("name", LESSONS)
def test_the_map_is_shown_and_small(name):
    [cell] = [cell for cell in nbformat.read(LESSONS[name], 4).cells if cell.source.startswith("# @title You are here")]
    [out] = cell.outputs
    assert f"You are here: {room_of(name)} ({name})" in out.data["text/plain"]
    assert 2_000 < len(out.data["image/png"]) * 3 / 4 < 15_000


def test_a_head_that_differs_is_mended_once():
    nb = nbformat.read(LESSONS["03_saliency"], 4)
    kept = [cell.source for cell in nb.cells]
    for cell in nb.cells:
        if "cellView" in cell.metadata:
            cell.source = cell.source.replace("hosted", "there").replace("03_saliency", "02_model")
    nb.cells[0].source = nb.cells[0].source.replace(" " + heads.KAGGLE.format("03_saliency"), "")
    assert heads.mend(nb, "03_saliency", SETUP) and not heads.mend(nb, "03_saliency", SETUP)
    assert [cell.source for cell in nb.cells] == kept


def test_the_rooms_are_those_of_the_plan():
    notebooks = re.findall(r"^\| `\w+` \| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert {room_of(notebook) for notebook in notebooks} == set(ROOMS)
    assert {name for path in PATHS for name in path} == set(ROOMS)
    assert len({(room.column, room.row) for room in ROOMS.values()}) == len(ROOMS), "two rooms in one place"


def test_a_notebook_without_a_room_is_refused_by_name():
    with pytest.raises(InputError, match="99_cellar"):
        Map("99_cellar")


def test_all_that_is_drawn_lies_on_the_map():
    for name in (None, *LESSONS):
        figure = draw_map(name)
        figure.canvas.draw()
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width and 0 <= box.y0 < box.y1 <= figure.bbox.height, text.get_text()


# the set-up cell


@pytest.fixture
def commands(monkeypatch):
    "What the set-up cell would run, on a machine where multimix is missing; nothing is run."
    ran, find = [], importlib.util.find_spec
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: ran.append(command))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "multimix" else find(name))
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    return ran


def test_set_up_does_nothing_at_home(commands, capsys):
    exec(SETUP, {})
    assert commands == [] and "pip install -e ." in capsys.readouterr().out


@pytest.mark.parametrize("place", ["Colab", "Kaggle"])
def test_set_up_installs_where_a_notebook_comes_alone_and_keeps_what_is_there(commands, monkeypatch, place):
    if place == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", sys)
    else:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    exec(SETUP, {})
    [command] = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and "-U" not in command and "--upgrade" not in command
    for name in ("numpy", "torch", "torchvision", "ipywidgets"):
        assert f"{name}=={importlib.metadata.version(name)}" in command


def test_set_up_installs_nothing_twice(commands, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    exec(SETUP, {})
    assert commands == []


def test_colab_meets_the_requirements_but_for_two_small_packages():
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    asked = [Requirement(line) for line in settings["DEFAULT"]["requirements"].split()]
    asked = [one for one in asked if one.marker is None or one.marker.evaluate({"python_version": "3.13"})]
    assert {one.name for one in asked} - set(COLAB) - {"filelock"} == {"captum", "torchmetrics"}  # torch asks for filelock
    assert [one.name for one in asked if one.name in COLAB and COLAB[one.name] not in one.specifier] == []


# pictures of the widgets

widgets = script("make_widgets")


@pytest.mark.parametrize("name", widgets.ENDINGS)
def test_a_widget_has_its_picture(name):
    assert not widgets.put_picture(nbformat.read(LESSONS[name], 4), name), "run python nbs/make_widgets.py, then nbdev-clean"
    assert (widgets.PICTURES / f"{name}.png").stat().st_size < 100_000


def test_a_lost_picture_is_put_back():
    nb = nbformat.read(LESSONS["09_explorer"], 4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    assert widgets.put_picture(nb, "09_explorer") and not widgets.put_picture(nb, "09_explorer")


def test_every_lesson_that_shows_a_widget_has_a_picture():
    shown = r"^(?:\w*explorer|monitor|app)$"  # the last line of a cell
    ends = {name: [cell.source.splitlines()[-1] for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" and cell.source]
            for name, path in LESSONS.items()}
    assert {name for name, lines in ends.items() if any(re.match(shown, line) for line in lines)} <= set(widgets.ENDINGS)


def test_a_picture_is_cut_to_what_is_on_it(tmp_path):
    page = Image.new("RGB", (400, 300), "white")
    page.paste((200, 0, 0), (50, 60, 150, 100))
    page.save(tmp_path / "shot.png")
    assert Image.open(io.BytesIO(widgets.small(tmp_path / "shot.png"))).size == (116, 56)
