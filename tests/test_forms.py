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


# the exercises

LESSONS = sorted(path.stem for path in NBS.glob("*.ipynb") if path.stem != "index")


def used(code: str) -> set[str]:
    "Names that are called or defined."
    nodes = list(ast.walk(ast.parse(code)))
    called = {getattr(node.func, "id", getattr(node.func, "attr", "")) for node in nodes if isinstance(node, ast.Call)}
    return called | {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize("name", LESSONS)
def test_what_the_solutions_call_is_run_by_a_hidden_cell(name):
    text = "\n".join(cell.source for cell in nbformat.read(NBS / f"{name}.ipynb", 4).cells if cell.cell_type == "markdown")
    folded = "\n".join(re.findall(r"<details>.*?</details>", text, re.S))
    solutions = "\n".join(re.findall(r"```python\n(.*?)```", folded, re.S))
    hidden = "\n".join(code for code in code_of(name) if re.search(r"^#\|\s*hide\s*$", code, re.M) and "default_exp" not in code)
    assert folded and hidden.strip(), "exercises have folded solutions, and a hidden cell runs them"
    lesson = used("\n".join(re.sub(r"^[!%].*", "", code, flags=re.M) for code in code_of(name)))  # what the lesson is about
    wanted = used(solutions) & lesson - {"print", "show", "plot", "range", "len", "list", "zip"}
    assert len(wanted - used(hidden)) <= len(wanted) / 2, wanted - used(hidden)  # what only draws or prints may be left out
