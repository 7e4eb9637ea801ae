"""The forms of the lessons: settings that a student may move, which the lesson then uses."""
import ast
import re
from pathlib import Path

import nbformat
import pytest

NBS = Path(__file__).resolve().parents[1] / "nbs"
FORM = re.compile(r"^(\w+) = (.+?)  # @param (.+)$", re.M)
TEACHING = ("00b_phantom", "01_augmentation", "02_model", "03_saliency", "04_losses", "05_pseudo_labels", "06b_training", "07_evaluation",
            "08_experiments", "09_explorer", "09b_readings", "09c_pseudo_explorer", "09d_augmentation_explorer")


def code_of(name: str) -> list[str]:
    return [cell.source for cell in nbformat.read(NBS / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]


def forms_of(name: str) -> list[tuple[int, str, str, str]]:
    "(cell, name, default, form) of every setting."
    return [(k, *found) for k, source in enumerate(code_of(name)) for found in FORM.findall(source)]


@pytest.mark.parametrize("name", TEACHING)
def test_a_lesson_has_settings_and_uses_each(name):
    code, forms = code_of(name), forms_of(name)
    assert 1 <= len(forms) <= 4, "a few settings"
    for k, setting, *_ in forms:
        later = [node for source in code[k:] for node in ast.walk(ast.parse(re.sub(r"^[!%].*", "", source, flags=re.M)))]
        assert any(isinstance(n, ast.Name) and n.id == setting and isinstance(n.ctx, ast.Load) for n in later), f"{setting} is never read"


@pytest.mark.parametrize("name", TEACHING)
def test_the_default_is_a_choice_of_the_form(name):
    for _, setting, default, form in forms_of(name):
        value = ast.literal_eval(default)
        if form.startswith("["):
            assert value in ast.literal_eval(form[: form.index("]") + 1]), setting
        elif '"slider"' in form:
            low, high, step = (float(re.search(rf"{key}: ([\d.]+)", form)[1]) for key in ("min", "max", "step"))
            assert low <= value <= high and abs((value - low) / step - round((value - low) / step)) < 1e-6, setting
        else:
            assert '"boolean"' in form and isinstance(value, bool), setting


def test_every_form_is_in_a_lesson_of_the_list():
    assert {path.stem for path in NBS.glob("*.ipynb") if forms_of(path.stem)} == set(TEACHING)
