"""Reading, resizing and caching: what the notebook does not show, above all broken files and broken runs."""
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import multimix.images as images_module
from multimix.images import (
    ImageSet,
    InputError,
    cache_images,
    cache_key,
    check_size,
    list_images,
    read_folders,
    read_image,
    read_masked,
    resize_image,
    thumbnail,
)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 48), dtype=np.uint8)
CALM = settings(deadline=None)
IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(RNG.integers(0, 256, (40, 48), dtype=np.uint8)).save(folder / f"{i}.png")
    return list_images(folder)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and message.strip()
    return message


# reading

def modes():
    grey = Image.fromarray(GREY)
    palette = Image.fromarray(255 - GREY)
    palette.putpalette([255 - i for i in range(256) for _ in "RGB"])
    return {
        "L.png": grey, "L.bmp": grey, "L.tif": grey, "RGB.png": grey.convert("RGB"), "RGBA.png": grey.convert("RGBA"),
        "LA.png": grey.convert("LA"), "P.png": palette, "16.png": Image.fromarray(GREY.astype(np.uint16) * 257),
        "16.tif": Image.fromarray(GREY.astype(np.uint16) * 257), "F.tif": Image.fromarray(GREY.astype(np.float32) / 255),
    }


@pytest.mark.parametrize("name", modes())
def test_every_lossless_kind_gives_the_same_pixels(tmp_path, name):
    modes()[name].save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == np.float32 and image.shape == (40, 48)
    np.testing.assert_allclose(image, GREY / 255, atol=2e-7)


def test_big_endian_16_bits_one_bit_and_transparent_palette(tmp_path):
    wide = GREY.astype(np.uint16) * 257
    Image.frombytes("I;16B", (48, 40), wide.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    np.testing.assert_allclose(read_image(tmp_path / "big.tif"), GREY / 255, atol=2e-7)
    Image.fromarray(GREY > 127).save(tmp_path / "bit.png")
    assert np.array_equal(read_image(tmp_path / "bit.png"), (GREY > 127).astype(np.float32))
    see_through = Image.fromarray(GREY)
    see_through.putpalette([i for i in range(256) for _ in "RGB"])
    see_through.save(tmp_path / "clear.png", transparency=bytes(range(256)))
    np.testing.assert_allclose(read_image(tmp_path / "clear.png"), GREY / 255, atol=2e-7)


def test_jpeg_in_grey_colour_and_ink_agree_roughly(tmp_path):
    smooth = np.asarray(Image.fromarray(GREY[:5, :6]).resize((96, 80), Image.Resampling.BICUBIC))
    for mode in ("L", "RGB", "CMYK"):
        Image.fromarray(smooth).convert(mode).save(tmp_path / f"{mode}.jpg", quality=98)
        assert np.abs(read_image(tmp_path / f"{mode}.jpg") - smooth / 255).mean() < 0.01


def test_colours_become_luminance(tmp_path):
    Image.new("RGB", (4, 4), (200, 100, 50)).save(tmp_path / "colour.png")
    assert abs(read_image(tmp_path / "colour.png")[0, 0] * 255 - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 0.5


@pytest.mark.parametrize("pixels", [np.full((4, 4), 7.0), np.full((4, 4), -0.5), np.full((4, 4), np.nan)])
def test_floats_of_unknown_range_are_refused(tmp_path, pixels):
    Image.fromarray(pixels.astype(np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(InputError, match="odd.tif.*range") as error:
        read_image(tmp_path / "odd.tif")
    one_line(error)


@IN_A_FOLDER
@given(part=st.floats(0, 0.9), suffix=st.sampled_from(["png", "jpg", "tif", "bmp"]))
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_file_cut_short_is_named_never_half_read(tmp_path, part, suffix):
    Image.fromarray(GREY).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=f"cut.{suffix}") as error:
        read_image(tmp_path / f"cut.{suffix}")
    one_line(error)


@IN_A_FOLDER
@given(junk=st.binary(max_size=200), magic=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\x00"]))
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_junk_is_named_whatever_it_holds(tmp_path, junk, magic):
    (tmp_path / "junk.png").write_bytes(magic + junk)
    with pytest.raises(InputError, match="junk.png"):
        read_image(tmp_path / "junk.png")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path)


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for place in range(80, len(whole) - 20, 101):
        (tmp_path / "flipped.png").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        with pytest.raises(InputError, match="flipped.png"):
            read_image(tmp_path / "flipped.png")


# sizes

@CALM
@given(st.integers(-100, 600))
def test_sizes_divisible_by_16_and_no_other(size):
    if size >= 32 and size % 16 == 0:
        assert check_size(size) == size
    else:
        with pytest.raises(InputError, match=f"size={size}"):
            check_size(size)


@pytest.mark.parametrize("size", [True, 64.0, "64", None])
def test_sizes_that_are_no_whole_numbers(size):
    with pytest.raises(InputError, match="size="):
        check_size(size)


@CALM
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_resizing_by_a_whole_factor_is_the_mean_of_blocks(size, factor, seed):
    image = np.random.default_rng(seed).random((size * factor, size * factor), dtype=np.float32)
    np.testing.assert_allclose(resize_image(image, size), image.reshape(size, factor, size, factor).mean((1, 3)), atol=1e-5)


@CALM
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 64))
def test_resizing_keeps_a_flat_image_flat(height, width, size):
    np.testing.assert_allclose(resize_image(np.full((height, width), 0.7, np.float32), size), np.full((size, size), 0.7), atol=1e-5)


@pytest.mark.parametrize("levels", [(0, 255), (0, 1), (0, 3)])
def test_masks_of_any_two_levels(tmp_path, levels):
    truth = np.zeros((64, 64), bool)
    truth[16:48, 8:24] = True
    Image.fromarray(np.where(truth, levels[1], levels[0]).astype(np.uint8)).save(tmp_path / "m.png")
    assert np.array_equal(thumbnail(tmp_path / "m.png", 32, "mask"), truth[::2, ::2])


def test_an_empty_mask_stays_empty(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "m.png")
    assert thumbnail(tmp_path / "m.png", 32, "mask").sum() == 0


# the cache

def test_the_cache_holds_what_reading_gives(tmp_path, files):
    images = cache_images(files, 32, tmp_path / "cache", progress=False)
    assert isinstance(images, np.memmap) and images.dtype == np.uint8 and images.shape == (6, 32, 32)
    assert all(np.array_equal(images[i], thumbnail(path, 32)) for i, path in enumerate(files))
    for workers in (1, 5):
        assert np.array_equal(cache_images(files, 32, tmp_path / f"cache{workers}", workers, progress=False), images)


def test_a_second_start_reads_no_image(tmp_path, files, monkeypatch):
    first = cache_images(files, 32, tmp_path / "cache", progress=False)
    monkeypatch.setattr(images_module, "thumbnail", lambda *a: pytest.fail("decoded again"))
    assert np.array_equal(cache_images([str(f) for f in files], 32, tmp_path / "cache", progress=False), first)


def test_a_changed_file_is_read_again(tmp_path, files):
    cache_images(files, 32, tmp_path / "cache", progress=False)
    Image.fromarray(255 - np.asarray(Image.open(files[2]))).save(files[2])
    again = cache_images(files, 32, tmp_path / "cache", progress=False)
    assert np.array_equal(again[2], thumbnail(files[2], 32))


def test_the_key_depends_on_all_that_decides_the_pixels(files, monkeypatch):
    keys = {cache_key(files, 32, "image"), cache_key(files, 48, "image"), cache_key(files, 32, "mask"), cache_key(files[::-1], 32, "image"),
            cache_key(files[1:], 32, "image")}
    monkeypatch.setattr(images_module, "READER_VERSION", 999)
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
    code = ("import sys; from multimix.images import cache_images\n"
            "print(int(cache_images(sys.argv[2:], 32, sys.argv[1], progress=False).sum()))")
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), *map(str, files)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1 and len(list((tmp_path / "cache").iterdir())) == 1


# sets and folders

def test_a_set_whose_parts_do_not_fit_is_refused():
    pixels = np.zeros((3, 8, 8), np.uint8)
    good = ImageSet(pixels, ["a", "b", "c"], labels=[0, 1, -1], classes=["x", "y"])
    assert good.labels.dtype == np.int64 and good.counts() == {"x": 1, "y": 1}
    wrong = [dict(images=pixels[0]), dict(images=pixels / 2), dict(names=["a"]), dict(masks=pixels),
             dict(labels=[0, 1]), dict(labels=[0, 1, 2]), dict(labels=[0, 1, -2]),
             dict(masks=np.zeros((3, 1, 4, 4), np.uint8)), dict(patients=["p"]), dict(boxes=[])]
    for part in wrong:
        with pytest.raises(InputError, match=next(iter(part))) as error:
            ImageSet(**{"images": pixels, "names": ["a", "b", "c"], "classes": ("x", "y"), **part})
        one_line(error)


def test_a_subset_carries_everything_along():
    n = 5
    whole = ImageSet(np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8), list("abcde"), np.array([0, 1, 0, 1, 1]),
                     (np.arange(n) % 2).astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 2), np.uint8), list("vwxyz"),
                     [np.full((k, 4), k, np.float32) for k in range(n)], ("x", "y"))
    for indices in ([4, 0], np.array([4, 0])):
        part = whole.subset(indices)
        assert part.names == ["e", "a"] and part.images[0, 0, 0] == 4 and list(part.labels) == [1, 0] and list(part.patients) == ["z", "v"]
        assert part.masks[:, 0, 0, 0].tolist() == [0, 0] and [len(b) for b in part.boxes] == [4, 0]
    assert whole.subset(np.array([True, False, True, False, False])).names == ["a", "c"]
    assert len(whole.subset([])) == 0


def test_what_lies_about_in_folders_is_ignored(tmp_path, files):
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "readme.txt"):
        (files[0].parent / name).write_bytes(b"junk")
    assert list_images(files[0].parent) == files


def test_class_folders(tmp_path, files):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="other"):
        read_folders({"a": files[0].parent, "b": other}, 32, cache_dir=tmp_path / "cache", progress=False)
    Image.fromarray(GREY).save(other / "x.JPG")
    both = read_folders({"b": other, "a": files[0].parent}, 32, cache_dir=tmp_path / "cache", progress=False)
    assert both.classes == ("b", "a") and both.counts() == {"b": 1, "a": 6} and both.names[0] == "other/x.JPG"
    with pytest.raises(InputError, match="size=50"):
        read_folders({"a": files[0].parent}, 50)


@pytest.fixture
def pairs(tmp_path):
    for side in ("images", "left", "right"):
        (tmp_path / side).mkdir()
    for i in range(3):
        Image.fromarray(GREY).save(tmp_path / f"images/{i}.png")
        for k, side in enumerate(("left", "right")):
            mask = np.zeros((40, 48), np.uint8)
            mask[10:30, 4 + 16 * k:28 + 16 * k] = 255  # they overlap in columns 20 to 27
            Image.fromarray(mask).save(tmp_path / f"{side}/{i}_mask.png")
    return tmp_path


def load_pairs(folder, sides=("left", "right"), **options):
    return read_masked(folder / "images", [folder / side for side in sides], 32, cache_dir=folder / "cache", progress=False, **options)


def test_masks_of_two_structures_merge_by_union(pairs):
    merged, bare = load_pairs(pairs)
    apart, _ = load_pairs(pairs, merge=False)
    assert bare is None and merged.masks.shape == (3, 1, 32, 32) and apart.masks.shape == (3, 2, 32, 32)
    assert (apart.masks.sum(1) == 2).any() and merged.masks.max() == 1
    assert np.array_equal(merged.masks[:, 0], apart.masks.max(1))


def test_images_without_a_mask_come_apart(pairs):
    Image.fromarray(255 - GREY).save(pairs / "images" / "0more.png")
    masked, bare = load_pairs(pairs, ("left",))
    assert len(masked) == 3 and bare.names == ["images/0more.png"] and bare.masks is None
    assert np.array_equal(bare.images[0], thumbnail(pairs / "images/0more.png", 32))
    assert np.array_equal(masked.images[0], thumbnail(pairs / "images/0.png", 32))


@pytest.mark.parametrize("fault, named", [
    (lambda d: (d / "images/1.png").unlink(), "left/1_mask.png"),
    (lambda d: Image.new("L", (48, 41)).save(d / "right/1_mask.png"), "right/1_mask.png.*images/1.png"),
    (lambda d: (d / "right/2_mask.png").unlink(), "images/2.png"),
    (lambda d: (d / "left/1_mask.png").write_bytes(b"junk"), "left/1_mask.png"),
    (lambda d: Image.fromarray(GREY).save(d / "images/1.jpg"), "images/1.png"),
    (lambda d: [f.unlink() for f in (d / "right").iterdir()], "right: holds no image"),
])
def test_faulty_pairs_are_named(pairs, fault, named):
    fault(pairs)
    with pytest.raises(InputError, match=named.replace("/", r"[\\/]")) as error:
        load_pairs(pairs)
    one_line(error)
