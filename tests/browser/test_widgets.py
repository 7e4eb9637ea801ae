"""Every widget in a real browser: each handle is moved, each choice made, and the page must answer and stay well."""
import io
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from pictures import chest_like, dicom, saved
from PIL import Image
from visit import Visit

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def opened(browser, pages):
    "A page by its name, opened once for all tests in a row that look at it."
    found = {}

    def page(name: str) -> Visit:
        if name not in found:
            for other in list(found):
                found.pop(other).close()
            found[name] = Visit(browser, pages(name))
        return found[name]

    yield page
    for visit in found.values():
        visit.close()


# what is tested


def test_the_versions_are_those_that_were_asked_for():
    wanted = os.environ.get("MULTIMIX_JUPYTER")
    if wanted is None:
        pytest.skip("no set of versions was asked for: python3 tests/browser/run.py")
    import ipykernel
    import IPython
    import ipywidgets
    import voila

    import multimix

    imported = {module.__name__.lower(): module.__version__ for module in (ipykernel, IPython, ipywidgets, voila)}
    assert imported == {name: version(name) for name in imported}
    pins = dict(line.split("==") for line in (HERE / "colab.txt").read_text().splitlines() if "==" in line)
    pins = {name: pins[name] for name in imported}
    assert (imported == pins) == (wanted == "colab") and int(imported["ipywidgets"][0]) == {"colab": 7, "today": 8}[wanted]
    assert all(Path(module.__file__).is_relative_to(sys.prefix) for module in (ipykernel, IPython, ipywidgets, voila, multimix))


# the saliency explorer


@pytest.fixture
def saliency(opened):
    visit = opened("saliency").look()
    yield visit
    visit.is_well()


def told(visit: Visit, *words: str) -> None:
    "Wait for these words: they come a moment after the picture that they belong to."
    visit.until(lambda: all(word in visit.text() for word in words), " and ".join(words))


def to_a_chest_with_a_box(visit: Visit) -> None:
    "From the first phantom to the second."
    told(visit, "image: phantom-2-00000")
    visit.click("next")
    told(visit, "image: phantom-2-00001", "pointing game")


def test_every_handle_of_the_saliency_explorer_is_answered(saliency):
    saliency.shot("saliency-first")
    saliency.fits()
    to_a_chest_with_a_box(saliency)
    for label in ("number", "opacity", "threshold", "smoothing"):
        for key in ("ArrowRight", "ArrowLeft"):
            saliency.changes(lambda label=label, key=key: saliency.slide(label, key), label)
    for button in ("previous", "next", "random"):
        saliency.changes(lambda button=button: saliency.click(button), button)
    for source, first in (("others", "phantom-7-00000"), ("phantoms", "phantom-2-00000")):
        saliency.changes(lambda source=source: saliency.choose("images", source), source)
        told(saliency, f"image: {first}")


def test_every_method_class_and_bridge_is_shown(saliency):
    to_a_chest_with_a_box(saliency)
    methods = saliency.options("method")
    assert len(methods) == 5
    for method in (*methods[1:], methods[0]):
        saliency.changes(lambda method=method: saliency.choose("method", method), method)
        saliency.shot(f"saliency-{method}")
    for name in ("normal", "pneumonia"):
        saliency.choose("class", name)
        told(saliency, f"explained: {name}")
    for bridge in ("zeroed", "shuffled", "truth box", "on"):
        saliency.changes(lambda bridge=bridge: saliency.choose("bridge", bridge), bridge)
        saliency.shot(f"saliency-bridge-{bridge}")


def test_a_picture_neither_flickers_nor_piles_up(saliency):
    pictures = saliency.page.locator("img").count()
    height = saliency.page.evaluate("() => document.body.scrollHeight")

    def move():
        for label, key in (("opacity", "ArrowLeft"), ("threshold", "ArrowRight"), ("number", "ArrowRight")):
            for _ in range(3):
                saliency.changes(lambda: saliency.slide(label, key), label)  # noqa: B023

    seen = saliency.steady(move)
    assert seen["frames"] > 9 and seen["blank"] == seen["moved"] == []
    assert saliency.page.locator("img").count() == pictures and saliency.page.evaluate("() => document.body.scrollHeight") == height


def test_a_picture_follows_the_hand_but_a_network_waits_for_the_release(saliency):
    before = saliency.source()
    saliency.drag("opacity", -20, lambda: saliency.until(lambda: saliency.source() != before, "another picture while the hand moves"))
    saliency.page.wait_for_timeout(300)
    before = saliency.source()

    def wait():
        saliency.page.wait_for_timeout(300)
        assert saliency.source() == before

    saliency.changes(lambda: saliency.drag("number", 40, wait), "number")


def test_the_figure_is_saved(saliency, tmp_path):
    saliency.click("save figure")
    link = saliency.page.locator("a[download]:visible")
    link.wait_for()
    saliency.shot("saliency-save")
    with saliency.page.expect_download() as download:
        link.click()
    download.value.save_as(tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size[0] > 300 and download.value.suggested_filename.endswith(".png")
    saliency.keep("saliency-figure.png", (tmp_path / "figure.png").read_bytes())


def test_own_files_of_two_kinds_are_shown_and_a_bad_one_is_named(saliency, tmp_path):
    films = {"own.png": saved(chest_like(), "PNG"), "own.dcm": dicom(chest_like(seed=1)), "notes.txt": b"no image"}
    for name, content in films.items():
        (tmp_path / name).write_bytes(content)
    for name in ("own.png", "own.dcm"):
        saliency.changes(lambda name=name: saliency.upload(tmp_path / name), name)
        told(saliency, f"image: {name}")
        saliency.shot(f"saliency-{name}")
    assert "SECRETNAME" not in saliency.text()
    saliency.upload(tmp_path / "notes.txt")
    saliency.until(saliency.alerts, "a message")
    assert "notes.txt" in saliency.alerts()[0] and saliency.faults == []
    saliency.shot("saliency-refused")
    saliency.slide("opacity", "ArrowRight")
    saliency.until(lambda: not saliency.alerts(), "no message any more")
    saliency.changes(lambda: saliency.slide("opacity", "ArrowLeft"), "opacity")  # and the page goes on


def test_the_shown_picture_is_a_png(saliency):
    assert Image.open(io.BytesIO(saliency.content())).format == "PNG"


def test_the_saliency_explorer_on_a_narrow_page(saliency):
    saliency.page.set_viewport_size({"width": 620, "height": 900})
    saliency.shot("saliency-narrow")
    try:
        saliency.fits()
    finally:
        saliency.page.set_viewport_size({"width": 1200, "height": 900})


# the pseudo-label explorer


def test_every_policy_and_the_threshold_are_answered(opened):
    visit = opened("pseudo").look()
    visit.shot("pseudo-first")
    visit.fits()
    for key in ("ArrowLeft", "Home", "End"):
        visit.changes(lambda key=key: visit.slide("threshold", key), key)
    visit.shot("pseudo-none")
    visit.changes(lambda: visit.drag("threshold", -60), "threshold")
    visit.shot("pseudo-threshold")
    policies = visit.options("policy")
    assert len(policies) == 5
    for policy in (*policies[1:], policies[0]):
        visit.changes(lambda policy=policy: visit.choose("policy", policy), policy)
        visit.shot(f"pseudo-{policy}")
    assert visit.page.locator("img").count() == 2
    visit.is_well()


# the augmentation explorer


def test_every_operation_view_and_slider_is_answered(opened):
    visit, pictures = opened("augmentation").look(), {}
    visit.shot("augmentation-first")
    visit.fits()
    operations = visit.options("operation")
    assert len(operations) > 12
    for operation in (*operations[1:], operations[0]):
        visit.choose("operation", operation)
        told(visit, f"done: {operation}")
        pictures[operation] = bytes(visit.digest())
        if operation in ("Rotate", "Solarize", "Sharpness"):
            visit.shot(f"augmentation-{operation}")
    assert len(set(pictures.values())) == len(operations) - 1  # 'any' is for the strong view: here it changes nothing, as Identity
    visit.choose("operation", "Rotate")
    told(visit, "done: Rotate")
    for label, key in (("magnitude", "ArrowLeft"), ("image", "ArrowRight"), ("seed", "ArrowRight")):
        visit.changes(lambda label=label, key=key: visit.slide(label, key), label)
    for view in ("weak", "strong"):
        visit.changes(lambda view=view: visit.click(view), view)
        visit.changes(lambda: visit.slide("seed"), "seed")
        visit.shot(f"augmentation-{view}")
    assert visit.page.locator("img").count() == 1
    visit.is_well()


# the training monitor


def test_a_run_is_seen_while_it_goes_on(opened):
    visit = opened("monitor")
    visit.click("train")
    curves, film = (visit.page.locator("img.widget-image").nth(k) for k in (0, 1))
    film.wait_for()
    visit.until(lambda: "loss" in visit.text(), "the first row")
    visit.shot("monitor-first")
    seen, frames = set(), []

    def finished() -> bool:
        seen.add(curves.get_attribute("src"))
        frames.append((film.evaluate("image => image.naturalWidth") + 6) // 116)
        return frames[-1] == 4 and "step: 40" in visit.text().replace("\xa0", " ")

    visit.until(finished, "the fourth frame, at the last step")
    visit.page.wait_for_timeout(300)
    visit.shot("monitor-last")
    assert len(seen) > 1 and frames == sorted(frames)
    assert visit.page.locator("img").count() == 2
    visit.fits()
    visit.is_well()
