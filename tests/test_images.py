"""Reading and resizing: what the notebooks do not show, above all every kind of file with any content, and broken files."""
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from pictures import as_npy, as_npz, chest_like, saved
from PIL import Image

from multimix import data
from multimix.formats import Unreadable, check_jpeg, to_unit
from multimix.images import InputError, check_size, fit, image_size, list_images, read_image, resize_image, thumbnail

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 48), dtype=np.uint8)
CALM = settings(deadline=None)
IN_A_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


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


def test_a_folder_and_a_dangling_link_are_no_images_and_said_to_be(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name, said in ((".", "is a folder; name the image files in it"), ("link.png", "link.png: is a link to a file that is not there"),
                       ("gone.png", "gone.png: no such file")):
        with pytest.raises(InputError, match=said):
            read_image(tmp_path / name)


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for place in range(80, len(whole) - 20, 101):
        (tmp_path / "flipped.png").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        with pytest.raises(InputError, match="flipped.png"):
            read_image(tmp_path / "flipped.png")


def test_any_flipped_bit_of_a_png_or_npz_is_noticed_or_harmless(tmp_path):
    for name, whole in {"a.png": saved(GREY, "PNG"), "a.npz": as_npz(GREY, packed=True)}.items():
        for place in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])
            try:
                assert np.array_equal(read_image(tmp_path / name), GREY / np.float32(255)), place
            except InputError as error:
                assert str(error).startswith(str(tmp_path / name))


@pytest.mark.parametrize("length", [14, 40, 400])
def test_zeros_at_the_end_of_a_png_are_noticed(tmp_path, length):
    whole = saved(GREY, "PNG")
    (tmp_path / "page.png").write_bytes(whole[:-length] + bytes(length))
    with pytest.raises(InputError, match="page.png"):
        read_image(tmp_path / "page.png")


# every kind of file, any content

def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def palette_of(grey: np.ndarray, seed: int) -> Image.Image:
    "The same picture as row numbers of a shuffled table."
    order = np.random.default_rng(seed).permutation(256).astype(np.uint8)  # row of each grey value
    image = Image.fromarray(order[grey])
    image.putpalette(np.repeat(np.argsort(order), 3).astype(np.uint8).tobytes())
    return image


LOSSLESS = {
    "grey.png": lambda a: saved(a, "PNG"), "colour.png": lambda a: saved(Image.fromarray(a).convert("RGB"), "PNG"),
    "alpha.png": lambda a: saved(Image.merge("LA", [Image.fromarray(a), Image.fromarray(255 - a)]), "PNG"),
    "rgba.png": lambda a: saved(Image.merge("RGBA", [Image.fromarray(b) for b in (a, a, a, 255 - a)]), "PNG"),
    "grey.bmp": lambda a: saved(a, "BMP"), "colour.bmp": lambda a: saved(Image.fromarray(a).convert("RGB"), "BMP"),
    "raw.tif": lambda a: saved(a, "TIFF"), "lzw.tif": lambda a: saved(a, "TIFF", compression="tiff_lzw"),
    "deflate.tiff": lambda a: saved(a, "TIFF", compression="tiff_adobe_deflate"),
    "packed.tif": lambda a: saved(a, "TIFF", compression="packbits"),
    "strips.tif": lambda a: saved(a, "TIFF", compression="tiff_adobe_deflate", strip_size=64),
    "rgb.tif": lambda a: saved(Image.fromarray(a).convert("RGB"), "TIFF"),
    "a.npy": as_npy, "columns.npy": lambda a: as_npy(np.asfortranarray(a)), "a.npz": as_npz, "b.npz": lambda a: as_npz(a, packed=True),
    "half.npy": lambda a: as_npy(a / 255.0), "fraction.tif": lambda a: saved((a / 255).astype(np.float32), "TIFF"),
    "wide.npy": lambda a: as_npy(a.astype(">u2") * 257), "shuffled.png": lambda a: saved(palette_of(a, 1), "PNG"),
    "shuffled.tif": lambda a: saved(palette_of(a, 2), "TIFF"), "shuffled.bmp": lambda a: saved(palette_of(a, 3), "BMP"),
    "deep.png": lambda a: cv2.imencode(".png", np.repeat(a[..., None], 3, -1).astype(np.uint16) * 257)[1].tobytes(),
}
PICTURES = nps.arrays(np.uint8, nps.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


@pytest.mark.parametrize("name", LOSSLESS)
@IN_A_FOLDER
@given(grey=PICTURES)
def test_what_was_written_is_read_whatever_it_is(tmp_path, name, grey):
    grey = grey.copy()
    grey.flat[0] = 255  # 16 bits show that they are
    path = write(tmp_path / name, LOSSLESS[name](grey))
    image = read_image(path)
    assert image.dtype == np.float32 and image.shape == grey.shape == image_size(path)
    np.testing.assert_allclose(image, grey / 255, atol=2e-7)


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_suffix_does_not_matter(tmp_path, name):
    for suffix in (".png", ".jpg", ".img", ".dcm", "", ".1234"):
        assert np.array_equal(read_image(write(tmp_path / f"x{suffix}", LOSSLESS[name](chest_like()))),
                              read_image(write(tmp_path / name, LOSSLESS[name](chest_like()))))


@IN_A_FOLDER
@given(bits=st.sampled_from([8, 10, 12, 14, 16]), seed=st.integers(0, 99),
       name=st.sampled_from(["a.png", "a.tif", "big.tif", "a.npy", "a.npz"]))
def test_white_is_the_smallest_depth_that_holds_the_largest_value(tmp_path, bits, seed, name):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**bits, (9, 7)).astype(np.uint16)
    values[0, 0] = rng.integers(2 ** (bits - 2) if bits > 8 else 0, 2**bits)
    assume(values.max() >= (2 ** (bits - 2) if bits > 8 else 0))
    big = saved(Image.frombytes("I;16B", (7, 9), values.astype(">u2").tobytes()), "TIFF")
    how = {"npy": as_npy, "npz": as_npz, "png": lambda a: saved(a, "PNG"), "tif": lambda a: saved(a, "TIFF")}
    path = write(tmp_path / name, big if name == "big.tif" else how[name[-3:]](values))
    np.testing.assert_allclose(read_image(path), values / (2**bits - 1), atol=2e-7)
    np.testing.assert_allclose(read_image(path, bits=16), values / 65535, atol=2e-7)


def test_one_depth_for_a_set_and_no_more(tmp_path):
    dim = write(tmp_path / "dim.png", saved(np.full((4, 4), 1000, np.uint16), "PNG"))
    assert read_image(dim)[0, 0] == np.float32(1000 / 1023) and read_image(dim, bits=12)[0, 0] == np.float32(1000 / 4095)
    assert thumbnail(dim, 32, bits=12)[0, 0] == round(255 * 1000 / 4095)
    grey = write(tmp_path / "grey.png", saved(np.full((4, 4), 200, np.uint8), "PNG"))
    assert read_image(grey, bits=12)[0, 0] == np.float32(200 / 255), "files of 8 bits have no other depth"
    with pytest.raises(InputError, match="dim.png.*up to 1000, more than 9 bits"):
        read_image(dim, bits=9)
    for bits in (7, 17, 12.0, "12", True):
        with pytest.raises(InputError, match="bits="):
            read_image(dim, bits=bits)


@CALM
@given(nps.arrays(st.sampled_from([np.int16, np.int32, np.int64, np.float32, np.float64, np.uint8, np.uint32, bool]), (3, 4)))
def test_any_numbers_become_grey_or_are_refused(values):
    try:
        image = to_unit(values)
    except Unreadable:
        known = values.dtype.kind == "f" and 0 <= values.min() and values.max() <= 1
        assert not known and not (values.dtype.kind in "bui" and 0 <= values.min() and values.max() <= 65535)
    else:
        assert image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1
        order = np.argsort(values, axis=None, kind="stable")
        assert (np.diff(image.ravel()[order]) >= 0).all(), "brighter stays brighter"


def small_tiff(pixels: np.ndarray, order: str = "<", **changes) -> bytes:
    "A TIFF by hand, with tags that Pillow would not write."
    names = {"photometric": 262, "format": 339, "bits": 258, "width": 256, "height": 257, "orientation": 274}
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    tags = {256: pixels.shape[1], 257: pixels.shape[0], 258: 8 * pixels.itemsize, 259: 1, 262: 1, 273: 8, 277: 1, 278: pixels.shape[0],
            279: len(body), 339: {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]} | {names[name]: value for name, value in changes.items()}
    rows = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return start + body + struct.pack(order + "H", len(tags)) + rows + bytes(4)


@IN_A_FOLDER
@given(seed=st.integers(0, 99), kind=st.sampled_from(["u1", "u2"]), zero_is_white=st.booleans())
def test_a_tiff_whose_zero_is_white_is_turned_over(tmp_path, seed, kind, zero_is_white):
    top = np.iinfo(kind).max
    values = np.random.default_rng(seed).integers(0, top, (5, 6), endpoint=True).astype(kind)
    values[0, 0] = top
    image = read_image(write(tmp_path / "x.tif", small_tiff(values, photometric=1 - zero_is_white)))
    np.testing.assert_allclose(image, (top - values if zero_is_white else values) / top, atol=2e-7)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4"])
def test_signed_tiffs_are_read_unless_something_is_negative(tmp_path, kind):
    values = np.arange(120, dtype=kind).reshape(10, 12)
    np.testing.assert_allclose(read_image(write(tmp_path / "x.tif", small_tiff(values))), values / 255, atol=2e-7)
    values[0, 0] = -1
    with pytest.raises(InputError, match="x.tif: holds values from -1 to 119"):
        read_image(write(tmp_path / "x.tif", small_tiff(values)))


@pytest.mark.parametrize(("name", "pages"), [("x.tif", 3), ("x.png", 2)])
def test_several_pages_are_refused(tmp_path, name, pages):
    images = [Image.fromarray(chest_like(seed=i)) for i in range(pages)]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:])
    with pytest.raises(InputError, match=f"{name}: holds {pages} pages"):
        read_image(tmp_path / name)


def test_colours_of_16_bits_keep_their_bits_or_are_refused(tmp_path):
    twelve = chest_like().astype(np.uint16) * 16
    colour, alpha = (np.repeat(twelve[..., None], n, -1) for n in (3, 4))
    for array in (colour, alpha):
        path = write(tmp_path / "deep.png", cv2.imencode(".png", array)[1].tobytes())
        np.testing.assert_allclose(read_image(path), twelve / 4095, atol=2e-7)
    with pytest.raises(InputError, match="deep.tif: holds colours of 16 bits"):
        read_image(write(tmp_path / "deep.tif", cv2.imencode(".tif", colour)[1].tobytes()))


@pytest.mark.parametrize(("array", "word"), [
    (np.array([{}]), "no plain numbers"), (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"), (np.zeros(7), "shape"), (np.zeros((0, 4)), "4 x 0"),
    (np.zeros((3, 4), complex), "no plain numbers"), (np.full((3, 4), -1), "from -1"), (np.full((3, 4), 1 << 20), "up to 1048576"),
    (np.full((3, 4), np.nan), "range"), (np.array([["a", "b"]]), "no plain numbers"), (np.full((3, 4), 255.0), "from 255 to 255"),
])
def test_arrays_that_are_no_image_are_refused(tmp_path, array, word):
    for name, content in {"x.npy": as_npy(array), "x.npz": as_npz(array)}.items():
        with pytest.raises(InputError, match=f"{name}: .*{word}") as error:
            read_image(write(tmp_path / name, content))
        one_line(error)


class Trap:
    "Leaves a file behind when it is unpickled."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_no_pickle_is_ever_opened(tmp_path):
    trap = np.array([[Trap(tmp_path / "sprung")]], dtype=object)
    for content in (as_npy(trap, allow_pickle=True), as_npz(trap), pickle.dumps(trap)):
        for name in ("x.npy", "x.npz", "x.pkl"):
            with pytest.raises(InputError, match=name):
                read_image(write(tmp_path / name, content))
    assert not (tmp_path / "sprung").exists()


def test_an_npz_of_many_arrays_names_them(tmp_path):
    np.savez(tmp_path / "set.npz", train_images=GREY, train_labels=GREY[0])
    with pytest.raises(InputError, match=r"set.npz: holds 2 arrays \(train_images, train_labels\); save one image"):
        read_image(tmp_path / "set.npz")


@pytest.mark.parametrize("name", ["JPCLN001.IMG", "x.img"])
def test_raw_films_of_jsrt(tmp_path, name):
    values = np.random.default_rng(0).integers(0, 4096, (2048, 2048)).astype(np.uint16)
    path = write(tmp_path / name, values.astype(">u2").tobytes())
    np.testing.assert_allclose(read_image(path), (4095 - values.astype(float)) / 4095, atol=2e-7)
    assert image_size(path) == (2048, 2048)
    for content in (path.read_bytes()[:-2], path.read_bytes() + b"0"):
        with pytest.raises(InputError, match=f"{name}: is .* bytes long"):
            image_size(write(path, content))
    with pytest.raises(InputError, match=f"{name}: holds values up to"):
        read_image(write(path, (values + 1).astype(">u2").tobytes()))


@pytest.mark.parametrize(("content", "word"), [
    (b"", "is empty"), (b"GIF89a...", "a GIF"), (b"%PDF-1.4", "a PDF"), (b"\n <!DOCTYPE html>", "web page"), (b"hello", "not an image"),
    (b"PK\x05\x06" + bytes(18), "zip archive"), (b"\x1f\x8b..", "gzip"),
])
def test_what_is_no_image_is_called_by_its_name(tmp_path, content, word):
    with pytest.raises(InputError, match=f"x.png: .*{word}") as error:
        read_image(write(tmp_path / "x.png", content))
    one_line(error)


def bomb(kind: str, side: int = 60_000) -> bytes:
    "A file of that kind whose header claims `side` x `side` pixels."
    if kind == "png":
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        whole = saved(GREY, "PNG")
        return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    if kind == "jpg":
        whole = saved(GREY, "JPEG")
        at = whole.index(b"\xff\xc0")
        return whole[: at + 5] + struct.pack(">HH", side, side) + whole[at + 9:]
    if kind == "bmp":
        return saved(GREY, "BMP")[:18] + struct.pack("<ii", side, side) + saved(GREY, "BMP")[26:]
    if kind == "tif":
        return small_tiff(GREY, width=side, height=side)
    npy = as_npy(GREY).replace(str(GREY.shape).encode(), f"({side}, {side})".encode()).replace(b" " * 8, b"", 1)
    head = npy[: -GREY.size]
    npy = head[:8] + struct.pack("<H", len(head) - 10) + head[10:] + GREY.tobytes()
    if kind == "npy":
        return npy
    import io
    import zipfile
    with zipfile.ZipFile(f := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", npy)
    return f.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "npy", "npz"])
def test_a_bomb_is_refused_by_its_size_before_memory_is_taken(tmp_path, kind):
    path = write(tmp_path / f"bomb.{kind}", bomb(kind))
    tracemalloc.start()
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=f"bomb.{kind}: (claims 60000 x 60000 pixels|cannot be read .Image size .3600000000 pixels)"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_large_file_is_not_even_opened(tmp_path, monkeypatch):
    path = write(tmp_path / "x.png", saved(GREY, "PNG"))
    monkeypatch.setattr("multimix.images.MAX_BYTES", 100)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("opened"))
    with pytest.raises(InputError, match="x.png: is .* bytes long, more than any X-ray"):
        read_image(path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="everything is readable here")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = write(tmp_path / "x.png", saved(GREY, "PNG"))
    path.chmod(0)
    with pytest.raises(InputError, match="x.png: cannot be read .*permission"):
        read_image(path)


def test_the_reader_is_also_reached_through_data():
    assert data.read_image is read_image


# JPEG

JPEGS = {"grey": {}, "fine": {"quality": 98}, "progressive": {"progressive": True}, "optimized": {"optimize": True},
         "rows": {"restart_marker_rows": 1}, "blocks": {"restart_marker_blocks": 3}}


@pytest.mark.parametrize("how", JPEGS)
@CALM
@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 90)), mode=st.sampled_from(["L", "RGB", "CMYK"]), seed=st.integers(0, 9),
       smooth=st.booleans())
def test_a_whole_jpeg_passes_its_check(how, shape, mode, seed, smooth):
    grey = chest_like(shape, seed) if smooth else np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    check_jpeg(saved(Image.fromarray(grey).convert(mode), "JPEG", **JPEGS[how]))


@pytest.mark.parametrize("how", JPEGS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_of_another_size_or_with_half_its_data_is_noticed(tmp_path, how, mode):
    whole = saved(Image.fromarray(chest_like((96, 128))).convert(mode), "JPEG", **JPEGS[how])
    at = whole.index(b"\xff\xc2" if how == "progressive" else b"\xff\xc0")
    sizes = [(48, 128), (96, 64), (112, 128), (96, 256), (400, 128), (32, 32)]
    damaged = [whole[: at + 5] + struct.pack(">HH", *size) + whole[at + 9:] for size in sizes]
    damaged += [] if how == "progressive" else [whole[: len(whole) // 2] + b"\xff\xd9"]
    for content in damaged:
        with pytest.raises(InputError, match="x.jpg"):
            read_image(write(tmp_path / "x.jpg", content))


# which way up

TURN = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose, 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T, 8: np.rot90}  # what is stored -> what is meant (TIFF 6.0, tag 274)


@pytest.mark.parametrize("orientation", TURN)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "palette", "lzw", "wide"])
def test_orientation_is_obeyed_by_image_mask_and_size(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[274] = orientation
    grey = np.kron(np.random.default_rng(0).integers(0, 2, (6, 4), dtype=np.uint8) * 255, np.ones((16, 16), np.uint8))
    form = {"palette": "PNG", "lzw": "TIFF", "wide": "PNG"}.get(kind, kind)
    image = palette_of(grey, 0) if kind == "palette" else Image.fromarray(grey.astype(np.uint16) * 257 if kind == "wide" else grey)
    options = {"compression": "tiff_lzw"} if kind == "lzw" else {"quality": 100} if kind == "JPEG" else {}
    path = write(tmp_path / f"x.{form.lower()}", saved(image, form, exif=exif, **options))
    meant = TURN[orientation](grey)
    assert image_size(path) == meant.shape
    np.testing.assert_allclose(read_image(path), meant / 255, atol=0.02 if kind == "JPEG" else 2e-7)
    expected = resize_image((meant > 0).astype(np.float32), 32) >= 0.5
    assert np.array_equal(thumbnail(path, 32, "mask"), expected)


def test_orientation_by_a_handmade_tag(tmp_path):
    values = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for orientation, turn in TURN.items():
        path = write(tmp_path / "x.tif", small_tiff(values, orientation=orientation))
        np.testing.assert_allclose(read_image(path) * 255, turn(values), atol=1e-4)
        assert image_size(path) == turn(values).shape


# damage

def test_two_thousand_damaged_files_are_read_right_or_refused(tmp_path):
    "In a process of its own: a crash or a hang fails this test and not the others."
    script = Path(__file__).with_name("damaged.py")
    environment = os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, script, "2000", "0"], capture_output=True, text=True, timeout=900, env=environment)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-500:]
    assert "2000 files, seed 0: 0 failures" in run.stdout


def test_the_judge_of_damaged_files_finds_garbage():
    from damaged import judge
    truth, whole = np.zeros((72, 80), np.float32), saved(np.zeros((72, 80), np.uint8), "BMP")
    def verdict(image, kind="bmp", how="bits", content=whole):
        return judge(kind, how, content, whole, image, truth, truth)
    other = truth.copy()
    other[5, 5] = 0.5
    assert verdict(truth) == "right" and verdict(other, kind="jpeg") == "plausible"
    assert all(verdict(image).startswith("GARBAGE") for image in (truth[:50], truth.astype(float), truth - 1, truth * np.nan))
    assert all(verdict(other, **how).startswith("GARBAGE") for how in ({"how": "cut"}, {"how": "renamed"}, {"kind": "png8"}))
    struck = whole[:-9] + b"\1" + whole[-8:]
    other[6, 6] = 0.5
    assert verdict(other, content=struck).startswith("GARBAGE") and verdict(other, kind="tiff12", content=struck) == "plausible"


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


@CALM
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64))
def test_padding_keeps_the_shape_and_the_middle(height, width, size):
    top, left, h, w = fit(height, width, size, "pad")
    assert max(h, w) == size and min(h, w) >= 1 and 0 <= top and 0 <= left and top + h <= size and left + w <= size
    assert abs(2 * top + h - size) <= 1 and abs(2 * left + w - size) <= 1, "centred"
    if min(h, w) > 1:
        assert abs(h * width - w * height) <= 0.5 * max(height, width) + 1e-9, "to half a pixel"
    square = resize_image(np.full((height, width), 0.7, np.float32), size, "pad")
    inside = np.zeros((size, size), bool)
    inside[top : top + h, left : left + w] = True
    np.testing.assert_allclose(square, np.where(inside, 0.7, 0), atol=1e-5)


@CALM
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_padding_by_a_whole_factor_is_the_mean_of_blocks_in_a_frame(factor, quarters, seed):
    size, wide = 16, 4 * quarters
    image = np.random.default_rng(seed).random((size * factor, wide * factor), dtype=np.float32)
    blocks = image.reshape(size, factor, wide, factor).mean((1, 3))
    left = (size - wide) // 2
    np.testing.assert_allclose(resize_image(image, size, "pad"), np.pad(blocks, ((0, 0), (left, size - wide - left))), atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (64, 64), (7, 90)])
def test_masks_are_padded_as_their_images(tmp_path, shape):
    dot = np.zeros(shape, np.uint8)
    dot[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = 255
    path = write(tmp_path / "m.png", saved(dot, "PNG"))
    mask, image = thumbnail(path, 32, "mask", aspect="pad"), thumbnail(path, 32, aspect="pad")
    assert np.array_equal(mask, image >= 128) and mask.any()
    assert np.array_equal(thumbnail(path, 32, "mask"), thumbnail(path, 32) >= 128)


def test_an_unknown_aspect_is_refused():
    with pytest.raises(InputError, match="aspect='letterbox': must be 'stretch' or 'pad'"):
        resize_image(np.zeros((4, 8), np.float32), 32, "letterbox")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64, np.float32, bool])
def test_masks_in_arrays_of_any_type(tmp_path, kind):
    truth = np.zeros((64, 64), bool)
    truth[16:48, 8:24] = True
    assert np.array_equal(thumbnail(write(tmp_path / "m.npy", as_npy(truth.astype(kind))), 32, "mask"), truth[::2, ::2])


@pytest.mark.parametrize("levels", [(0, 255), (0, 1), (0, 3)])
def test_masks_of_any_two_levels(tmp_path, levels):
    truth = np.zeros((64, 64), bool)
    truth[16:48, 8:24] = True
    Image.fromarray(np.where(truth, levels[1], levels[0]).astype(np.uint8)).save(tmp_path / "m.png")
    assert np.array_equal(thumbnail(tmp_path / "m.png", 32, "mask"), truth[::2, ::2])


def test_an_empty_mask_stays_empty(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "m.png")
    assert thumbnail(tmp_path / "m.png", 32, "mask").sum() == 0


def test_what_lies_about_in_folders_is_ignored(tmp_path):
    for name in ("2.png", "1.JPG", "._0.png", ".DS_Store", "Thumbs.db", "readme.txt"):
        (tmp_path / name).write_bytes(b"junk")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["1.JPG", "2.png"]


def test_dicom_is_found_by_its_letters_where_the_suffix_says_nothing(tmp_path):
    for name in ("IM0001", "1.2.840.10008", "x.bak", "DICOMDIR", ".hidden"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    for name in ("short", "other"):
        (tmp_path / name).write_bytes(b"!DICM" * (1 if name == "short" else 99))
    for name in ("a.DCM", "b.IMG", "c.npy", "d.npz", "e.TIFF"):
        (tmp_path / name).write_bytes(b"junk")
    names = ["IM0001", "1.2.840.10008", "x.bak", "a.DCM", "b.IMG", "c.npy", "d.npz", "e.TIFF"]
    assert [path.name for path in list_images(tmp_path)] == sorted(names)
