"""Pages with widgets, served by Voila, and a Chromium to open them with."""
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHROMIUM = next(filter(None, map(shutil.which, filter(None, (os.environ.get("MULTIMIX_CHROMIUM"), "chromium", "chromium-browser",
                                                            "google-chrome", "google-chrome-stable")))), None)
MISSING = [name for name in ("voila", "playwright") if importlib.util.find_spec(name) is None] + ["Chromium"] * (CHROMIUM is None)


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: python3 tests/browser/run.py"))


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def serve():
    "Starts `command(port)` and waits until it listens: serve(command, folder) gives the address. All end with the session."
    servers = []

    def start(command, folder: Path) -> str:
        port = free_port()
        with open(folder / "server.log", "ab") as log:
            server = subprocess.Popen(command(port), cwd=folder, start_new_session=True, stdout=log, stderr=subprocess.STDOUT)
        servers.append(server)
        for _ in range(1800):
            assert server.poll() is None, (folder / "server.log").read_text()
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}"
            time.sleep(0.1)
        raise AssertionError("the server does not listen after three minutes: " + (folder / "server.log").read_text())

    yield start
    for server in servers:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    "The folder of a run, trained for a moment: enough for lungs and maps that look like some."
    from multimix.data import MultiTaskData
    from multimix.methods import make_config
    from multimix.phantom import make_phantom
    from multimix.training import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    cls, seg = make_phantom(80, 32, 1, task="classification"), make_phantom(30, 32, 2, task="segmentation")
    config = make_config(policy="fixed", steps=40, size=32, width=8, batch=8, unlabeled=8)
    train(config, MultiTaskData.from_sets(cls, seg, labels=30, masks=20), folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def pages(serve, trained, tmp_path_factory):
    "Gives the address of each page in the folder `pages` by its name."
    import nbformat

    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(trained, folder / "run")
    for source in (HERE / "pages").glob("*.py"):
        cell = nbformat.v4.new_code_cell(source.read_text(encoding="utf-8"))
        kernel = {"name": "python3", "display_name": "python3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), folder / f"{source.stem}.ipynb")
    options = ["--no-browser", "--Voila.ip=127.0.0.1", "--Voila.tornado_settings={'websocket_max_message_size': 536870912}"]
    address = serve(lambda port: [sys.executable, "-m", "voila", str(folder), f"--port={port}", *options], folder)
    return lambda name: f"{address}/voila/render/{name}.ipynb"
