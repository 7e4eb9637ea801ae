"""The app in a real browser: what it shows of a run and of a visitor's files, and what it does not."""
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from visit import Visit


def answers(url: str) -> int:
    try:
        return urllib.request.urlopen(url, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def folders(tmp_path_factory, trained) -> Path:
    "Two runs, a folder of films, and something that is nobody's business."
    from multimix.phantom import make_phantom

    work = tmp_path_factory.mktemp("app")
    for folder in ("runs/first", "runs/second", "films"):
        (work / folder).mkdir(parents=True)
    for file in trained.iterdir():
        for name in ("first", "second"):
            (work / "runs" / name / file.name).write_bytes(file.read_bytes())
    for name in ("films/visitor.png", "secret.png"):
        Image.fromarray(make_phantom(1, 96, seed=9).images[0]).save(work / name)
    (work / "films" / "link.png").symlink_to(work / "secret.png")
    return work


@pytest.fixture(scope="module")
def address(folders, serve):
    "Where the app is served."
    call = "from multimix.app import serve; serve(['runs'], ['films'], {}, browser=False)"
    return serve(lambda port: [sys.executable, "-c", call.format(port)], folders)


@pytest.fixture(scope="module")
def page(browser, address):
    visit = Visit(browser, address)
    yield visit
    visit.close()


@pytest.fixture
def visit(page):
    yield page.look()
    page.is_well()


def test_the_app_opens_with_a_run_and_the_explorers_answer(visit):
    visit.shot("app-first")
    visit.fits()
    visit.changes(lambda: visit.click("next"), "next")
    visit.tab("augmentation")
    visit.look().changes(lambda: visit.slide("magnitude", "ArrowLeft"), "magnitude")
    visit.shot("app-augmentation")
    visit.tab("saliency")
    visit.look().changes(lambda: visit.slide("opacity", "ArrowLeft"), "opacity")


def test_a_file_of_the_given_folder_is_shown_and_links_to_outside_are_not_offered(visit):
    assert visit.options("file") == ["(phantoms)", "films/visitor.png"]
    visit.changes(lambda: visit.choose("file", "films/visitor.png"), "file")
    visit.until(lambda: "image: films/visitor.png" in visit.text(), "its name")
    visit.shot("app-file")


def test_a_large_file_arrives(visit, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3600, 3600), dtype=np.uint8)
    np.save(tmp_path / "large.npy", noise)
    assert (tmp_path / "large.npy").stat().st_size > 12_000_000
    visit.changes(lambda: visit.upload(tmp_path / "large.npy"), "a large upload")


def test_another_run_takes_the_place_of_the_first(visit):
    assert visit.options("run") == ["runs/first", "runs/second"]
    visit.choose("run", "runs/second")
    visit.until(lambda: "own files" not in visit.options("images") or "films/visitor.png" in visit.text(), "the other run's explorer")
    visit.look()
    assert visit.page.locator("img.widget-image:visible").count() == 1


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
