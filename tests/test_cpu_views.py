"""Views drawn image by image on the CPU: equal in every pixel to the batched ones, whatever the size, the settings and the threads."""
import multiprocessing
import threading

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix import augmentation as A
from multimix import cpu_views as C
from multimix.operations import GEOMETRIC, HISTOGRAM, OPS, TABLES, magnitude, operate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, height, width, seed=0):
    "Noise, a few dark levels, one level, a gradient: in turns; (n, 1, H, W) uint8."
    rng, kinds = np.random.default_rng(seed), []
    for i in range(n):
        flat = np.full((height, width), 77)
        slope = np.add.outer(3 * np.arange(height), 2 * np.arange(width)).clip(0, 255)
        kinds.append((rng.integers(0, 256, flat.shape), rng.integers(30, 60, flat.shape), flat, slope)[i % 4])
    return torch.from_numpy(np.array(kinds, dtype=np.uint8).reshape(n, height, width))[:, None]


@pytest.fixture
def threads(monkeypatch):
    "Sets the number of threads, which small images are drawn by, too."
    before = torch.get_num_threads()
    monkeypatch.setattr(C, "SHARED", 0)
    yield torch.set_num_threads
    torch.set_num_threads(before)


SETTINGS = dict(flip=0.5, pad=0.125, m=10, p=1.0, cutout=0.5, ops=OPS, resample="nearest")


def both(images, masks, seed, n, **changed):
    "The strong view image by image, and of the whole batch at once, from the same draws."
    options = SETTINGS | changed
    u = A.uniform(len(images), 6 + 4 * n, seeded(seed))
    return A.strong_view(images, masks, generator=seeded(seed), n=n, **options), A._strong_batch(images, masks, u, **options)


def equal(a, b):
    return all((x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y)) for x, y in zip(a, b))


# --- the same as batched -----------------------------------------------------------------------------------------------------------

@settings(max_examples=120, deadline=None, derandomize=True)
@given(height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(0, 2), seed=st.integers(0, 2**31), n=st.integers(0, 4),
       m=st.integers(2, 11), pad=st.floats(0, 0.99), p=st.floats(0, 1), cutout=st.floats(0, 1), flip=st.floats(0, 1),
       resample=st.sampled_from(["nearest", "bilinear"]), dtype=st.sampled_from([torch.bool, torch.uint8, torch.int64, torch.float64]))
def test_any_strong_view_is_the_batched_one(height, width, channels, seed, n, m, pad, p, cutout, flip, resample, dtype):
    images = pictures(6, height, width, seed % 97)
    masks = (torch.rand(6, channels, height, width, generator=seeded(seed)) > 0.5).to(dtype) if channels else None
    assert equal(*both(images, masks, seed, n, m=m, pad=pad, p=p, cutout=cutout, flip=flip, resample=resample))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**31), pad=st.floats(0, 0.99), flip=st.floats(0, 1),
       dtype=st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.float64]))
def test_any_weak_view_is_the_batched_one(height, width, seed, pad, flip, dtype):
    images = pictures(5, height, width, seed % 97)
    images = images if dtype == torch.uint8 else (images / 255).to(dtype)
    masks = torch.rand(5, 2, height, width, generator=seeded(seed)) > 0.5
    u = A.uniform(5, 3, seeded(seed))
    whole = A._view(*A._weak(images, masks, u, flip, pad))
    assert equal(A.weak_view(images, masks, generator=seeded(seed), flip=flip, pad=pad), whole)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(threads, count):
    threads(count)
    images = pictures(7, 48, 64)
    assert equal(*both(images, images > 90, 3, 3))


def test_small_images_wake_no_thread_and_large_ones_do(monkeypatch):
    asked, pool = [], C._pool
    monkeypatch.setattr(C, "_pool", lambda *args: asked.append(args) or pool(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        A.weak_view(pictures(3, 64, 64), generator=seeded())
        small = len(asked)
        A.weak_view(pictures(3, 512, 512), generator=seeded())
    finally:
        torch.set_num_threads(before)
    assert (small, len(asked)) == (0, 1)


def test_kept_places_are_those_of_the_move_and_the_size(threads):
    "Each move twice, in sizes that take turns: what is kept for one must not serve another, and none of it may change."
    for _ in range(2):
        for size in ((32, 48), (48, 32), (300, 300)):
            images = pictures(8, *size)
            assert equal(*both(images, images > 90, 11, 2, ops=GEOMETRIC))


def test_large_images():
    "Where one thread would not do for OpenCV, and where its counts in float32 would not be exact."
    images = pictures(2, 512, 640)
    assert equal(*both(images, images > 90, 5, 3))
    plane = np.zeros((4096, 4097), np.uint8)
    plane[0, 0] = 9
    assert C.levels_seen(plane)[[0, 9]].tolist() == [4096 * 4097 - 1, 1]


@pytest.mark.parametrize("size", [(64, 48), (33, 57), (5, 7), (2, 2), (1, 9), (9, 1)])
@pytest.mark.parametrize("name", OPS)
def test_each_operation_is_its_namesake(name, size):
    images = pictures(4, *size)
    for v in range(1, 11):
        for sign in (1, -1) if name in GEOMETRIC else (1,):
            expected = operate(name, images, magnitude(name, torch.full((4,), v)) * sign)
            for image, result in zip(images[:, 0].numpy(), expected[:, 0].numpy()):
                planes, table = C.run_chain([image.copy()], ((name, v, sign),))
                assert np.array_equal(planes[0] if table is None else table[planes[0]], result), (v, sign)


def test_crops_are_of_the_padded_image():
    image = pictures(1, 9, 12)[0, 0].numpy()
    padded = np.pad(image, 8, mode="reflect")
    for down in range(-8, 9):
        for right in range(-8, 9):
            expected = padded[8 + down : 17 + down, 8 + right : 20 + right]
            assert np.array_equal(C.crop(image, False, down, right), expected)
            assert np.array_equal(C.crop(image[:, ::-1].copy(), True, down, right), expected)


def test_tables_kept_are_never_those_of_another_image():
    for name in HISTOGRAM:
        for image in pictures(8, 16, 16, seed=4)[:, 0]:
            for v in (1, 9):
                expected = TABLES[name](torch.from_numpy(C.levels_seen(image.numpy()))[None], magnitude(name, torch.tensor([v])).float())
                assert np.array_equal(C.make_table(name, v, C.levels_seen(image.numpy())), expected[0].to(torch.uint8).numpy())


# --- manners -----------------------------------------------------------------------------------------------------------------------

def test_inputs_of_any_layout():
    images = pictures(4, 24, 24)
    first = A.strong_view(images, images > 90, generator=seeded())
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    wide = torch.cat([images, images], 1)[:, :1]
    for same in (turned, wide):
        assert equal(A.strong_view(same, same > 90, generator=seeded()), first)
    one = images[:1].expand(4, -1, -1, -1)
    assert equal(*both(one, one > 90, 1, 2))


def test_images_that_need_a_gradient_keep_it():
    images = (pictures(3, 16, 16) / 255).requires_grad_()
    A.weak_view(images, generator=seeded()).images.sum().backward()
    assert images.grad.sum() == 3 * 256


def test_what_a_thread_raises_is_raised(threads, monkeypatch):
    threads(2)
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(C, "crop", lambda *_: 1 / 0)
        A.weak_view(pictures(4, 8, 8), generator=seeded())
    assert A.weak_view(pictures(4, 8, 8), generator=seeded()).images.shape == (4, 1, 8, 8)


def test_threads_do_not_pile_up(threads):
    for count in (2, 3, 2, 2):
        threads(count)
        for _ in range(5):
            A.weak_view(pictures(6, 8, 8), generator=seeded())
    C._pool.cache_clear()
    mine = [t for t in threading.enumerate() if t.name.startswith("multimix-views")]
    for t in mine:
        t.join(10)
    assert not any(t.is_alive() for t in mine)


def _draw_in_a_fork(send):
    send.send(A.weak_view(pictures(4, 8, 8), generator=seeded()).images.sum().item())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_a_forked_process_draws_its_own(threads):
    threads(2)
    expected = A.weak_view(pictures(4, 8, 8), generator=seeded()).images.sum().item()
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(False)
    child = context.Process(target=_draw_in_a_fork, args=(send,))
    child.start()
    assert receive.poll(60) and receive.recv() == expected
    child.join()


def test_opencv_is_left_as_it_was():
    before = cv2.getNumThreads()
    A.strong_view(pictures(4, 32, 32), generator=seeded())
    assert cv2.getNumThreads() == before
