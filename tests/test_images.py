"""Reading and resizing: what the notebook does not show, above all broken files."""
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from multimix.images import InputError, check_size, list_images, read_image, resize_image, thumbnail

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


def test_what_lies_about_in_folders_is_ignored(tmp_path):
    for name in ("2.png", "1.JPG", "._0.png", ".DS_Store", "Thumbs.db", "readme.txt"):
        (tmp_path / name).write_bytes(b"junk")
    assert [path.name for path in list_images(tmp_path)] == ["1.JPG", "2.png"]
