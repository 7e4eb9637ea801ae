"""The cache: what the notebook does not show, above all broken files and broken runs."""
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import multimix.cache as cache_module
from multimix.cache import cache_images, cache_key
from multimix.images import InputError, list_images, thumbnail

RNG = np.random.default_rng(0)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(RNG.integers(0, 256, (40, 48), dtype=np.uint8)).save(folder / f"{i}.png")
    return list_images(folder)


def test_the_cache_holds_what_reading_gives(tmp_path, files):
    images = cache_images(files, 32, tmp_path / "cache", progress=False)
    assert isinstance(images, np.memmap) and images.dtype == np.uint8 and images.shape == (6, 32, 32)
    assert all(np.array_equal(images[i], thumbnail(path, 32)) for i, path in enumerate(files))
    for workers in (1, 5):
        assert np.array_equal(cache_images(files, 32, tmp_path / f"cache{workers}", workers, progress=False), images)


def test_a_second_start_reads_no_image(tmp_path, files, monkeypatch):
    first = cache_images(files, 32, tmp_path / "cache", progress=False)
    monkeypatch.setattr(cache_module, "thumbnail", lambda *a: pytest.fail("decoded again"))
    assert np.array_equal(cache_images([str(f) for f in files], 32, tmp_path / "cache", progress=False), first)


def test_a_changed_file_is_read_again(tmp_path, files):
    cache_images(files, 32, tmp_path / "cache", progress=False)
    Image.fromarray(255 - np.asarray(Image.open(files[2]))).save(files[2])
    again = cache_images(files, 32, tmp_path / "cache", progress=False)
    assert np.array_equal(again[2], thumbnail(files[2], 32))


def test_the_key_depends_on_all_that_decides_the_pixels(files, monkeypatch):
    keys = {cache_key(files, 32, "image"), cache_key(files, 48, "image"), cache_key(files, 32, "mask"), cache_key(files[::-1], 32, "image"),
            cache_key(files[1:], 32, "image")}
    monkeypatch.setattr(cache_module, "READER_VERSION", 999)
    assert len(keys | {cache_key(files, 32, "image")}) == 6


def test_a_damaged_cache_is_built_again(tmp_path, files):
    first = np.array(cache_images(files, 32, tmp_path / "cache", progress=False))
    [path] = (tmp_path / "cache").iterdir()
    for damage in (b"", b"junk", path.read_bytes()[:-100]):
        path.unlink()
        path.write_bytes(damage)
        assert np.array_equal(cache_images(files, 32, tmp_path / "cache", progress=False), first)


@pytest.mark.parametrize("fault", ["corrupt", "interrupt", "full disk"])
def test_a_failed_build_leaves_nothing_behind(tmp_path, files, fault, monkeypatch):
    if fault == "corrupt":
        files[3].write_bytes(files[3].read_bytes()[:100])
        raised, match = InputError, "3.png"
    else:
        error = KeyboardInterrupt() if fault == "interrupt" else OSError(28, "No space left on device")
        raised, match = (KeyboardInterrupt, None) if fault == "interrupt" else (InputError, "No space left.*MULTIMIX_CACHE")
        real = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(error))
    with pytest.raises(raised, match=match):
        cache_images(files, 32, tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []
    if fault != "corrupt":
        monkeypatch.setattr(os, "replace", real)
        assert len(cache_images(files, 32, tmp_path / "cache", progress=False)) == 6


def test_a_cache_folder_that_cannot_be_is_named(tmp_path, files):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="taken.*MULTIMIX_CACHE"):
        cache_images(files, 32, tmp_path / "taken", progress=False)


def test_the_default_folder_comes_from_the_environment(tmp_path, files, monkeypatch):
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "elsewhere"))
    cache_images(files, 32, progress=False)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_processes_that_build_the_same_cache_do_not_clash(tmp_path, files):
    code = ("import sys; from multimix.cache import cache_images\n"
            "print(int(cache_images(sys.argv[2:], 32, sys.argv[1], progress=False).sum()))")
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), *map(str, files)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1 and len(list((tmp_path / "cache").iterdir())) == 1
