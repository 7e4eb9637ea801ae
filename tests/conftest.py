"""What several test files lean on."""
import pytest


@pytest.fixture
def save_images(tmp_path):
    "Saves this many images, of noise and 40 x 48, in a new folder of this name; gives their paths in order."

    def call(number: int, name: str = "files"):
        import numpy as np
        from PIL import Image

        from multimix.images import list_images

        folder, rng = tmp_path / name, np.random.default_rng(0)
        folder.mkdir()
        for i in range(number):
            Image.fromarray(rng.integers(0, 256, (40, 48), dtype=np.uint8)).save(folder / f"{i:0{len(str(number - 1))}}.png")
        return list_images(folder)

    return call


@pytest.fixture
def files(save_images):
    return save_images(6)


@pytest.fixture
def server():
    "A web server on this machine that misbehaves on request."
    from serving import Server

    server = Server()
    yield server
    server.close()


@pytest.fixture
def seeded_weights():
    "The weights of a fresh model come from torch's global generator: the same in every run of a test."
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
