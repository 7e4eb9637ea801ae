"""The app in a real browser: Voila serves it, Chromium moves every handle; screenshots go to the folder MULTIMIX_SCREENSHOTS."""

import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which(os.environ.get("MULTIMIX_CHROMIUM", "chromium")) or shutil.which("chromium-browser")
MISSING = [name for name in ("voila", "playwright") if importlib.util.find_spec(name) is None] + ["chromium"] * (CHROMIUM is None)
pytestmark = [pytest.mark.browser,
              pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install 'multimix[browser]', apt install chromium")]
PATIENCE = 120_000  # milliseconds until something that should happen has not happened: a busy machine is slow, not wrong


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    "A run, a folder of films, and something that is nobody's business."
    from multimix.data import MultiTaskData
    from multimix.methods import make_config
    from multimix.phantom import make_phantom
    from multimix.training import train

    work = tmp_path_factory.mktemp("app")
    cls, seg = make_phantom(40, 32, 1, task="classification"), make_phantom(12, 32, 2, task="segmentation")
    config = make_config(steps=4, size=32, width=4, batch=2, unlabeled=3)
    train(config, MultiTaskData.from_sets(cls, seg, labels=6, masks=3), work / "runs" / "first", progress=False)
    (work / "films").mkdir()
    for name in ("films/visitor.png", "secret.png", "own.png"):
        Image.fromarray(make_phantom(1, 96, seed=9).images[0]).save(work / name)
    (work / "films" / "link.png").symlink_to(work / "secret.png")
    (work / "notes.txt").write_text("no image")
    return work


@pytest.fixture(scope="module")
def address(folders):
    "Where the app is served, for as long as the tests of this file run."
    port = free_port()
    call = f"from multimix.app import serve; serve(['runs'], ['films'], {port}, browser=False)"
    server = subprocess.Popen([sys.executable, "-c", call], cwd=folders, start_new_session=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            assert server.poll() is None, server.stdout.read().decode()
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    "One page with the app on it, and what a visitor does."

    def __init__(self, browser, address: str):
        self.page, self.faults = browser.new_page(viewport={"width": 1200, "height": 900}), []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(address)
        self.image = self.page.locator("img.widget-image:visible").first
        self.image.wait_for()

    def source(self) -> str:
        return self.image.get_attribute("src")

    def changes(self, act, what: str) -> None:
        "`act()`, and wait for another picture."
        before = self.source()
        act()
        end = time.time() + PATIENCE / 1000
        while self.source() == before:
            assert time.time() < end, f"the picture did not change: {what}; {self.alerts()}"
            self.page.wait_for_timeout(50)
        assert self.alerts() == [] and self.faults == []

    def alerts(self) -> list[str]:
        return self.page.locator("[role=alert]:visible").all_inner_texts()

    def control(self, label: str):
        return self.page.locator(".jupyter-widgets:visible").filter(has=self.page.locator(f'.widget-label:text-is("{label}")')).last

    def slide(self, label: str, key: str = "ArrowRight") -> None:
        self.control(label).locator(".noUi-handle, .ui-slider-handle").first.press(key)

    def choose(self, label: str, option: str) -> None:
        self.control(label).locator("select").select_option(label=option)

    def click(self, text: str) -> None:
        self.page.locator(f'button:visible:has-text("{text}")').first.click()

    def upload(self, path: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.click("own file")
        chooser.value.set_files(path)

    def shot(self, name: str) -> None:
        if folder := os.environ.get("MULTIMIX_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def visit(browser, address):
    visit = Visit(browser, address)
    yield visit
    visit.page.close()


def test_every_handle_of_the_saliency_explorer_changes_the_picture(visit):
    visit.shot("saliency-first")
    for _ in range(8):  # to a chest with a box
        if "pointing game" in visit.page.inner_text("body"):
            break
        visit.changes(lambda: visit.click("next"), "next")
    for label in ("number", "opacity", "threshold", "smoothing"):
        visit.changes(lambda label=label: visit.slide(label, "ArrowLeft" if label == "opacity" else "ArrowRight"), label)
    for button in ("previous", "next", "random"):
        visit.changes(lambda button=button: visit.click(button), button)
    for method in ("SmoothGrad", "integrated gradients", "Grad-CAM", "HiResCAM", "bridge gradient"):
        visit.changes(lambda method=method: visit.choose("method", method), method)
        visit.shot(f"saliency-{method.replace(' ', '-').lower()}")
    visit.choose("class", "pneumonia")
    visit.choose("class", "normal")
    visit.changes(lambda: visit.choose("bridge", "zeroed"), "bridge")
    visit.shot("saliency-zeroed")


def test_a_figure_can_be_taken_home(visit, tmp_path):
    visit.click("save figure")
    with visit.page.expect_download() as download:
        visit.page.locator("a[download]:visible").click()
    download.value.save_as(tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size[0] > 300


def test_a_file_of_ones_own_is_shown_and_a_bad_one_is_named(visit, folders):
    visit.changes(lambda: visit.upload(folders / "own.png"), "upload")
    visit.page.locator("text=own.png").last.wait_for()
    visit.shot("upload")
    visit.upload(folders / "notes.txt")
    visit.page.locator("[role=alert]:visible").wait_for()
    assert "notes.txt" in visit.alerts()[0]
    visit.shot("upload-refused")
    visit.changes(lambda: visit.slide("opacity", "ArrowLeft"), "opacity")  # and the page goes on


def test_a_large_file_arrives(visit, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3600, 3600), dtype=np.uint8)
    np.save(tmp_path / "large.npy", noise)
    assert (tmp_path / "large.npy").stat().st_size > 12_000_000
    visit.changes(lambda: visit.upload(tmp_path / "large.npy"), "a large upload")


def test_a_file_of_the_given_folder_is_shown_and_links_to_outside_are_not_offered(visit):
    options = visit.control("file").locator("option").all_inner_texts()
    assert options == ["(phantoms)", "films/visitor.png"]
    visit.changes(lambda: visit.choose("file", "films/visitor.png"), "file")
    visit.shot("file")


def test_every_handle_of_the_augmentation_explorer_changes_the_picture(visit):
    visit.page.locator('.lm-TabBar-tabLabel:text-is("augmentation"), .p-TabBar-tabLabel:text-is("augmentation")').first.click()
    visit.image = visit.page.locator("img.widget-image:visible").first
    visit.control("magnitude").wait_for()
    for label, key in (("magnitude", "ArrowLeft"), ("image", "ArrowRight")):
        visit.changes(lambda label=label, key=key: visit.slide(label, key), label)
    visit.changes(lambda: visit.choose("operation", "Solarize"), "operation")
    for view in ("weak", "strong"):
        visit.changes(lambda view=view: visit.click(view), view)
        visit.changes(lambda: visit.slide("seed"), "seed")
        visit.shot(f"augmentation-{view}")


def test_the_server_gives_nothing_but_its_page(address, folders):
    assert answers(address) == 200
    for path in ("/voila/files/app.ipynb", "/voila/files/../secret.png", "/voila/files/%2e%2e/%2e%2e/secret.png", "/files/secret.png",
                 f"/voila/files{folders}/secret.png", "/api/contents", "/voila/render/../secret.png"):
        assert answers(address + path) in (400, 403, 404, 405), path


def test_the_server_listens_on_this_machine_only(address):
    port = int(address.rsplit(":", 1)[1])
    listening = [line.split() for file in ("/proc/net/tcp", "/proc/net/tcp6") for line in Path(file).read_text().splitlines()[1:]]
    ours = [fields[1] for fields in listening if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")]
    assert ours == [f"0100007F:{port:04X}"]


def test_a_page_without_folders_says_what_to_do(monkeypatch):
    from multimix.app import App
    from multimix.data import InputError

    monkeypatch.delenv("MULTIMIX_APP", raising=False)
    with pytest.raises(InputError, match="multimix app"):
        App.from_environment()
    monkeypatch.setenv("MULTIMIX_APP", json.dumps({"runs": []}))
    with pytest.raises(InputError, match="no finished run"):
        App.from_environment()


def test_pictures_are_png(visit):
    data = visit.page.evaluate("async (src) => Array.from(new Uint8Array(await (await fetch(src)).arrayBuffer()))", visit.source())
    assert Image.open(io.BytesIO(bytes(data))).format == "PNG"
