"""The cache: what the notebook does not show, above all broken files and broken runs."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import multimix.cache as cache_module
from multimix.cache import cache_images, cache_key, cache_readable, cache_rows
from multimix.images import InputError, thumbnail

RNG = np.random.default_rng(0)


@pytest.fixture
def many(save_images):
    return save_images(70, "many")


@pytest.fixture
def stopped(tmp_path, many):
    "Makes folders with a build that was stopped in its fourth chunk."
    def build():
        folder = tmp_path / f"stopped{len(list(tmp_path.iterdir()))}"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            def read(path, *a):
                if path == str(many[50]):
                    raise KeyboardInterrupt
                return thumbnail(path, *a)
            patch.setattr(cache_module, "thumbnail", read)
            cache_images(many, 32, folder, workers=1, progress=False)
        return folder
    return build


def counter(monkeypatch):
    "A list that grows with every file that is read."
    read = []
    monkeypatch.setattr(cache_module, "thumbnail", lambda *a: read.append(a) or thumbnail(*a))
    return read


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


@pytest.mark.parametrize("error, raised, match", [
    (KeyboardInterrupt(), KeyboardInterrupt, None), (OSError(28, "No space left on device"), InputError, "No space left.*MULTIMIX_CACHE"),
])
def test_a_build_that_fails_at_its_end_shows_nothing_and_is_gone_on_with(tmp_path, files, error, raised, match, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda a, b: (_ for _ in ()).throw(error))
        with pytest.raises(raised, match=match):
            cache_images(files, 32, tmp_path / "cache", progress=False)
    assert all(path.name.startswith(".") for path in (tmp_path / "cache").iterdir())
    monkeypatch.setattr(cache_module, "thumbnail", lambda *a: pytest.fail("decoded again"))
    assert len(cache_images(files, 32, tmp_path / "cache", progress=False)) == 6
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_read(tmp_path, files, monkeypatch):
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    monkeypatch.setattr(cache_module, "thumbnail", lambda *a: pytest.fail("decoded"))
    with pytest.raises(InputError, match="needs 0.01 MB and 0.00 MB are free.*MULTIMIX_CACHE"):
        cache_images(files, 32, tmp_path / "cache", progress=False)


# stopped and gone on with

KILLED = """
import sys, time
import multimix.cache as cache
real, count = cache._put, 0

def put(f, place, data):
    global count
    count += 1
    if count == int(sys.argv[3]):  # in the middle of this write
        real(f, place, data[:len(data) // 2])
        print("now", flush=True)
        time.sleep(600)
    real(f, place, data)

cache._put = put
cache.cache_images(cache.Path(sys.argv[1]).read_text().split(), 32, sys.argv[2], workers=2, progress=False)
"""


@pytest.mark.parametrize("write", [1, 2, 3, 6, 7])  # the header, the first chunk, its checksum, the third chunk, its checksum
def test_a_killed_build_goes_on_where_it_was(tmp_path, many, write, monkeypatch):
    (tmp_path / "list").write_text("\n".join(map(str, many)))
    command = [sys.executable, "-c", KILLED, tmp_path / "list", tmp_path / "cache", str(write)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "now\n"
        child.kill()
    assert child.returncode == -signal.SIGKILL and not list((tmp_path / "cache").glob("[!.]*"))
    read = counter(monkeypatch)
    again = cache_images(many, 32, tmp_path / "cache", progress=False)
    done = (write - 2) // 2  # chunks whose checksum was written
    assert len(read) == len(many) - 16 * max(0, done)
    whole = cache_images(many, 32, tmp_path / "other", progress=False)
    assert Path(again.filename).read_bytes() == Path(whole.filename).read_bytes()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [path.name for path in (tmp_path / "other").iterdir()]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_became_of_a_part_the_result_is_right(many, stopped, data):
    folder = stopped()
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4), path.suffix) if content else []:
            content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    images = cache_images(many, 32, folder, progress=False)
    assert all(np.array_equal(images[i], thumbnail(path, 32)) for i, path in enumerate(many))


def test_parts_that_nobody_came_back_to_go_after_a_month(tmp_path, files):
    (tmp_path / "cache").mkdir()
    for age, name in ((31, "old"), (29, "new")):
        path = tmp_path / "cache" / f".{name}.npy.part"
        path.write_bytes(b"")
        os.utime(path, (time.time() - age * 86400,) * 2)
    cache_images(files, 32, tmp_path / "cache", progress=False)
    assert [path.name for path in (tmp_path / "cache").glob(".*")] == [".new.npy.part"]


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, files):
    def peak(n):
        tracemalloc.start()
        cache_images(files[:1] * n, 256, tmp_path / "cache", workers=2, progress=False)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(16)
    assert peak(640) < peak(160) + 5e6 < 640 * 256 * 256 / 2


def test_other_ways_to_read_are_other_caches(tmp_path, files):
    deep = tmp_path / "deep.png"
    Image.fromarray(RNG.integers(0, 4096, (40, 48), dtype=np.uint16)).save(deep)
    for how in ({}, {"aspect": "pad"}, {"bits": 16}, {"kind": "mask", "aspect": "pad"}):
        for _ in range(2):
            images = cache_images([*files, deep], 32, tmp_path / "cache", progress=False, **how)
            assert all(np.array_equal(images[i], thumbnail(path, 32, **how)) for i, path in enumerate([*files, deep]))
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.parametrize("how", [{"aspect": "crop"}, {"bits": 99}])
def test_options_that_cannot_be_leave_nothing(tmp_path, files, how):
    for number in (1, 6):
        with pytest.raises(InputError, match=next(iter(how)) + "="):
            cache_images(files[:number], 32, tmp_path / "cache", progress=False, **how)
        assert list((tmp_path / "cache").iterdir()) == []


# files that cannot be read

def test_damaged_files_are_named_or_left_out(tmp_path, files):
    files[3].write_bytes(files[3].read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(InputError, match="3.png: cannot be read") as error:
            cache_images(files, 32, tmp_path / "cache", progress=False)
        assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="1 of 6 files cannot be used: .*3.png; left out"):
        images, kept = cache_readable(files, 32, "skip", cache_dir=tmp_path / "cache", progress=False)
    assert kept.tolist() == [0, 1, 2, 4, 5] and not images[3].any()
    assert all(np.array_equal(images[i], thumbnail(files[i], 32)) for i in kept)


def test_many_damaged_files_are_counted(tmp_path, files):
    for path in files[1:]:
        path.write_bytes(b"junk")
    with pytest.raises(InputError, match=r"5 of 6 files cannot be used: \S*1.png, \S*2.png, \S*3.png, ...; .*on_error='skip'"):
        cache_images(files, 32, tmp_path / "cache", progress=False)
    files[0].write_bytes(b"junk")
    with pytest.raises(InputError, match="6 of 6"):
        cache_readable(files, 32, "skip", cache_dir=tmp_path / "cache", progress=False)
    with pytest.raises(InputError, match="on_error='ignore'"):
        cache_readable(files, 32, "ignore")


def test_a_file_that_was_out_of_reach_is_read_later(tmp_path):
    def read(row):
        if row in away:
            raise InputError(f"{row}: away")
        return np.full((4, 4), row, np.uint8)

    def build():
        return cache_rows(range(1, 41), read, (4, 4), "rows.npy", tmp_path, progress=False)

    away = {5, 20, 21}
    assert build()[1] == {4: "5: away", 19: "20: away", 20: "21: away"} == build()[1]
    away = {20}
    images, bad = build()
    assert bad == {19: "20: away"} and images[[4, 19, 20], 0, 0].tolist() == [5, 0, 21]
    away = set()
    images, bad = build()
    assert not bad and images[:, 0, 0].tolist() == list(range(1, 41)) and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("note", ["", "[4, 19", "null", "5", "[[4]]", "[4, 99]", '["4"]'])
def test_a_damaged_note_of_what_cannot_be_read_is_made_again(tmp_path, note):
    def read(row):
        if row == 5 and away:
            raise InputError("5: away")
        return np.full((4, 4), row, np.uint8)

    def build():
        return cache_rows(range(1, 41), read, (4, 4), "rows.npy", tmp_path, progress=False)

    away = True
    build()
    (file,) = tmp_path.glob("*.bad.json")
    file.write_text(note)
    assert build()[1] == {4: "5: away"} and json.loads(file.read_text()) == [4]
    file.write_text(note)
    away = False
    images, bad = build()
    assert not bad and images[4].min() == 5 and not file.exists()


def test_no_files_make_an_empty_cache(tmp_path):
    assert cache_images([], 32, tmp_path).shape == (0, 32, 32)


def test_a_cache_folder_that_cannot_be_is_named(tmp_path, files):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="taken.*MULTIMIX_CACHE"):
        cache_images(files, 32, tmp_path / "taken", progress=False)


def test_the_default_folder_comes_from_the_environment(tmp_path, files, monkeypatch):
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "elsewhere"))
    cache_images(files, 32, progress=False)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_a_user_without_a_home_is_told_to_name_a_folder(tmp_path, files, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache_module.Path, "home", home)
    monkeypatch.delenv("MULTIMIX_CACHE", raising=False)
    with pytest.raises(InputError, match="set MULTIMIX_CACHE to a folder"):
        cache_images(files, 32, progress=False)
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "named"))
    assert len(cache_images(files, 32, progress=False)) == len(cache_images(files, 32, tmp_path / "other", progress=False))


def test_processes_that_build_the_same_cache_do_not_clash(tmp_path, files):
    code = ("import sys; from multimix.cache import cache_images\n"
            "print(int(cache_images(sys.argv[2:], 32, sys.argv[1], progress=False).sum()))")
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), *map(str, files)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1 and len(list((tmp_path / "cache").iterdir())) == 1


def test_who_comes_second_waits_and_reads_nothing(tmp_path):
    "Two that fill one part would rename each other's half."
    last, go_on, read_again = threading.Event(), threading.Event(), []

    def slowly(row):
        if row == 39:
            last.set()
            assert go_on.wait(60)
        return np.full((2, 2), row + 1, dtype=np.uint8)

    def again(row):
        read_again.append(row)
        return slowly(row)

    with futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache_rows, range(40), slowly, (2, 2), "rows.npy", tmp_path, 1, False)
        assert last.wait(60)
        second = pool.submit(cache_rows, range(40), again, (2, 2), "rows.npy", tmp_path, 1, False)
        with pytest.raises(futures.TimeoutError):
            second.result(timeout=0.5)
        go_on.set()
        assert np.array_equal(first.result(60)[0], second.result(60)[0]) and first.result()[0][39, 0, 0] == 40
    assert read_again == [] and [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


def test_the_benchmark_measures_and_writes_a_table(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks/cache_memory.py"
    command = [sys.executable, script, "--counts", "20", "40", "--size", "32", "--only", "build", "--out", tmp_path / "t.csv"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    head, *rows = (line.split(",") for line in (tmp_path / "t.csv").read_text().split())
    assert [int(row[0]) for row in rows] == [20, 40] and all(float(row[head.index("build_peak_mb")]) > 20 for row in rows)
