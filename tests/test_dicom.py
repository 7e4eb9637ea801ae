"""DICOM: every way to store one picture, what is refused, and that nobody's name gets out."""
import io
import logging
import sys
import threading
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")

from damaged import damage  # noqa: E402
from pictures import chest_like, dataset, dicom, jpeg_in_dicom, lossless_jpeg, saved, wrapped, written  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_voi_lut, get_decoder, pixel_array  # noqa: E402

from multimix.cache import cache_images  # noqa: E402
from multimix.dicom import apply_window, is_dicom, open_dicom  # noqa: E402
from multimix.formats import Unreadable  # noqa: E402
from multimix.images import InputError, image_size, read_image, thumbnail  # noqa: E402

CALM = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
GREY = chest_like((24, 30))
TWELVE = GREY.astype(np.uint16) * 16
SECRETS = ("SECRET", "JANE", "DOCTOR", "0042", "19420101", "HOSPITAL")


def read(content: bytes) -> np.ndarray:
    size, pixels = open_dicom(content)
    image = pixels()
    assert image.shape == size and image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1
    return image


def refusal(content: bytes) -> str:
    with pytest.raises(Unreadable) as error:
        open_dicom(content)[1]()
    message = str(error.value)
    assert "\n" not in message and not any(secret in message for secret in SECRETS)
    return message


def between(values, low, high):
    return np.clip((values - low) / (high - low), 0, 1)


# from stored values to grey

@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # pydicom's
@CALM
@given(values=st.lists(st.integers(-2000, 5000), min_size=2, max_size=40), center=st.floats(-1000, 4000), width=st.floats(2, 5000),
       function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]))
def test_the_window_is_that_of_the_standard_as_pydicom_has_it(values, center, width, function):
    ds = dataset(TWELVE, WindowCenter=float(f"{center:.6g}"), WindowWidth=float(f"{width:.6g}"), VOILUTFunction=function)
    values = np.array(values)
    expected = apply_voi_lut(values, ds, prefer_lut=False) / 4095
    np.testing.assert_allclose(apply_window(values, float(ds.WindowCenter), float(ds.WindowWidth), function), expected, atol=1e-6)


@CALM
@given(bits=st.sampled_from([8, 10, 12, 14, 16]), signed=st.booleans(), over=st.booleans(), slope=st.sampled_from([1, 2, 0.5, -1, 0.001]),
       intercept=st.sampled_from([0, -1024, 7.5]), seed=st.integers(0, 99),
       syntax=st.sampled_from(["ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian"]))
def test_one_picture_however_it_is_stored(bits, signed, over, slope, intercept, seed, syntax):
    low = -(2 ** (bits - 1)) if signed else 0
    kind = ("i" if signed else "u") + ("1" if bits == 8 else "2")
    stored = np.random.default_rng(seed).integers(low, low + 2**bits, (5, 7)).astype(kind)
    ends = sorted((low * slope + intercept, (low + 2**bits - 1) * slope + intercept))
    content = dicom(stored, bits, syntax, RescaleSlope=slope, RescaleIntercept=intercept, VOILUTFunction="LINEAR_EXACT",
                    WindowCenter=f"{sum(ends) / 2:.10g}", WindowWidth=f"{ends[1] - ends[0]:.10g}",
                    PhotometricInterpretation="MONOCHROME1" if over else "MONOCHROME2")
    expected = between(stored * float(slope) + intercept, *ends)
    np.testing.assert_allclose(read(content), 1 - expected if over else expected, atol=1e-5)
    assert open_dicom(content)[0] == (5, 7)


@CALM
@given(center=st.integers(500, 3500), width=st.integers(2, 4000), slope=st.sampled_from([1.0, 1.5]), over=st.booleans())
def test_the_whole_way_agrees_with_pydicom(center, width, slope, over):
    ds = dataset(TWELVE, RescaleSlope=slope, RescaleIntercept=-100, WindowCenter=[center, 1], WindowWidth=[width, 1],
                 PhotometricInterpretation="MONOCHROME1" if over else "MONOCHROME2")
    shown = apply_voi_lut(apply_modality_lut(TWELVE, ds), ds)
    assume(np.ptp(shown) > 0)
    expected = (shown + 100) / (4095 * slope)
    np.testing.assert_allclose(read(written(ds)), 1 - expected if over else expected, atol=1e-5)


def test_without_a_window_black_and_white_are_percentiles():
    marked = TWELVE.copy()
    marked[0, :2] = 4095
    low, high = np.percentile(TWELVE, (0.5, 99.5))
    np.testing.assert_allclose(read(dicom(marked)), between(marked, low, high), atol=0.02)


@pytest.mark.parametrize("window", [{"WindowCenter": 2000, "WindowWidth": 0}, {"WindowCenter": 60000, "WindowWidth": 10},
                                    {"WindowCenter": 2000}, {"WindowWidth": 100}, {"WindowCenter": -9, "WindowWidth": 1},
                                    {"WindowCenter": 2000, "WindowWidth": 3000, "VOILUTFunction": "CURVED"}])
def test_a_window_that_shows_nothing_is_not_used(window):
    assert np.array_equal(read(dicom(TWELVE, **window)), read(dicom(TWELVE)))


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_a_flat_image_and_a_mask_of_one_pixel_are_read(value):
    flat = np.full((6, 6), value, np.uint16)
    assert np.ptp(read(dicom(flat))) == 0
    flat[2, 3] = 9
    assert np.ptp(read(dicom(flat))) == 1


def table(values, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item.add_new("LUTData", "OW", np.array(values, "<u2").tobytes())
    return item


@pytest.mark.parametrize(("bits", "first"), [(8, 100), (12, 100), (16, 0), (16, -50)])
def test_tables_map_values_and_end_in_their_first_and_last(bits, first):
    values = np.arange(-200, 5000, 7, dtype=np.int16)[None]
    entries = np.linspace(0, 2**bits - 1, 300).astype(int)
    expected = entries[np.clip(values - first, 0, 299)]
    ds = dataset(values, 16, "ImplicitVRLittleEndian", VOILUTSequence=[table(entries, first, bits)], WindowCenter=1, WindowWidth=2)
    np.testing.assert_allclose(read(written(ds)), expected / (2**bits - 1), atol=1e-5)
    ds = dataset(values, 16, ModalityLUTSequence=[table(entries, first, bits)], VOILUTFunction="LINEAR_EXACT",
                 WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
    np.testing.assert_allclose(read(written(ds)), expected / 2**bits, atol=1e-5)


@pytest.mark.parametrize("over", [False, True])
def test_padding_is_black_and_does_not_count(over):
    padded = np.full((40, 30), 63000, np.uint16)
    padded[:24] = TWELVE
    padded[30:] = 64000
    photometric = {"PhotometricInterpretation": "MONOCHROME1" if over else "MONOCHROME2"}
    image = read(dicom(padded, 16, PixelPaddingValue=63000, PixelPaddingRangeLimit=64000, **photometric))
    assert not image[24:].any() and np.array_equal(image[:24], read(dicom(TWELVE, 16, **photometric)))
    assert read(dicom(np.full((4, 4), 7, np.uint16), PixelPaddingValue=7)).shape == (4, 4)


@CALM
@given(bits=st.integers(8, 16), high=st.integers(7, 15), signed=st.booleans(), seed=st.integers(0, 99))
def test_only_the_stored_bits_count(bits, high, signed, seed):
    assume(high >= bits - 1)
    rng = np.random.default_rng(seed)
    low = -(2 ** (bits - 1)) if signed else 0
    meant = rng.integers(low, low + 2**bits, (6, 8))
    shift = high - bits + 1
    mask = ((1 << bits) - 1) << shift
    words = (rng.integers(0, 65536, meant.shape) & ~mask) | ((meant << shift) & mask)
    stored = words.astype(np.uint16).view(np.int16 if signed else np.uint16)
    window = {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": low + 2 ** (bits - 1), "WindowWidth": 2**bits}
    np.testing.assert_allclose(read(dicom(stored, bits, HighBit=high, **window)), (meant - low) / 2**bits, atol=1e-6)


# compressed pixels

WINDOW = {"WindowCenter": 2040.5, "WindowWidth": 4081}
LS = bytes.fromhex(  # JPEG-LS of the 16 x 16 values of `ramp`
    "ffd8fff7000b100010001001011100fff8000d01ffff0012004301140040ffda00080101000000000f3f1de3ace738dbedb6bb4d9ecb63b0d7f776e2cc02801004"
    "0100804360501010101011b00a2cc140409b0a142850204d850a14008af0a04da13628a282dc2d8a2802558adc2dc2d8a2b70b70b62802538a0b70b628a28adc2d"
    "8a2805462943b294a528765294029fb94a5294b7294a5294369b2842108765088886c0a97510daaaa886d5540526a1a436aaa9a436aa028f4b21a436a9643486d40"
    "516a9a436aaa1a436aa030ea21b555510daaa80c13edb6c7db6d236fe49241649241608ffd900")


def ramp() -> np.ndarray:
    y, x = np.mgrid[:16, :16]
    return (2000 + 60 * x - 45 * y + (x * y) % 7).astype(np.uint16)


def needs(syntax: str):
    "Skip where the packages to decode a transfer syntax are not installed."
    decoder = get_decoder(getattr(pydicom.uid, syntax))
    if not {"pylibjpeg", "pillow", "pydicom"} & set(decoder.available_plugins):
        pytest.skip(f"no decoder for {decoder.UID.name} is installed")


def test_lossless_compressions_give_the_same_picture():
    plain = read(dicom(TWELVE, **WINDOW))
    for name, content in jpeg_in_dicom(GREY, TWELVE, WINDOW).items():
        if name == "baseline":
            assert np.abs(read(content) - read(dicom(GREY, WindowCenter=128, WindowWidth=256))).max() < 0.06
        else:
            assert np.array_equal(read(content), plain), name


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_lossless_jpeg_of_any_depth(bits):
    needs("JPEGLosslessSV1")
    pixels = (GREY.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint8 if bits == 8 else np.uint16)
    elements = {"BitsStored": bits, "HighBit": bits - 1}
    packed = wrapped(lossless_jpeg(pixels, bits), "JPEGLosslessSV1", pixels, **elements)
    assert np.array_equal(read(packed), read(dicom(pixels, bits)))


def test_jpeg_ls():
    needs("JPEGLSLossless")
    assert np.array_equal(read(wrapped(LS, "JPEGLSLossless", ramp())), read(dicom(ramp())))


def test_jpeg_2000_with_signed_values():
    needs("JPEG2000Lossless")
    stream = saved(TWELVE, "JPEG2000", irreversible=False, no_jp2=True)
    assert np.array_equal(read(wrapped(stream, "JPEG2000Lossless", TWELVE)), read(dicom(TWELVE)))


def test_the_reader_never_calls_a_decoder_that_may_end_the_process(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder
    asked = []
    as_array = Decoder.as_array
    monkeypatch.setattr(Decoder, "as_array", lambda self, ds, **how: asked.append(how["decoding_plugin"]) or as_array(self, ds, **how))
    for content in jpeg_in_dicom(GREY, TWELVE, WINDOW).values():
        read(content)
    assert asked and set(asked) <= {"pydicom", "pillow", "pylibjpeg"}


def test_where_a_decoder_is_missing_the_package_is_named(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder
    monkeypatch.setattr(Decoder, "available_plugins", ("gdcm", "pyjpegls"))
    assert refusal(wrapped(LS, "JPEGLSLossless", ramp())).endswith("to read that: pip install pylibjpeg pylibjpeg-libjpeg")
    stream = saved(TWELVE, "JPEG2000", irreversible=False, no_jp2=True)
    assert refusal(wrapped(stream, "JPEG2000", TWELVE)).endswith("pip install pylibjpeg pylibjpeg-openjpeg")
    assert refusal(wrapped(stream, "HTJ2KLossless", TWELVE)).endswith("pip install pylibjpeg pylibjpeg-openjpeg")
    assert read(dicom(TWELVE)).shape == TWELVE.shape, "what is not compressed needs none"


def test_where_pydicom_is_missing_the_extra_is_named(monkeypatch, tmp_path):
    (tmp_path / "x.dcm").write_bytes(dicom(TWELVE))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r'x.dcm: is a DICOM file; to read those: pip install "multimix\[dicom\]"'):
        read_image(tmp_path / "x.dcm")


@pytest.mark.parametrize("size", [(23, 30), (24, 31), (12, 60)])
@pytest.mark.parametrize("name", ["baseline", "jpeg2000", "lossless"])
def test_a_stream_of_another_size_than_its_file_is_refused(name, size):
    files = jpeg_in_dicom(GREY, TWELVE, WINDOW)
    if name not in files:
        pytest.skip("no decoder for lossless JPEG is installed")
    ds = pydicom.dcmread(io.BytesIO(files[name]))
    ds.Rows, ds.Columns = size
    assert "not whole" in refusal(written(ds))


@pytest.mark.parametrize("name", ["baseline", "jpeg2000", "lossless"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_stream_that_is_cut_is_refused(name, part):
    streams = {"baseline": (saved(GREY, "JPEG"), "JPEGBaseline8Bit", GREY), "lossless": (lossless_jpeg(TWELVE), "JPEGLosslessSV1", TWELVE),
               "jpeg2000": (saved(TWELVE, "JPEG2000", irreversible=False, no_jp2=True), "JPEG2000Lossless", TWELVE)}
    stream, syntax, pixels = streams[name]
    needs(syntax)
    assert "replace" in refusal(wrapped(stream[: int(part * len(stream))], syntax, pixels))


# what is refused

@pytest.mark.parametrize(("elements", "word"), [
    ({"NumberOfFrames": 2}, "holds several frames, a film or a volume"),
    ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
    ({"Rows": 60_000, "Columns": 60_000}, "claims 60000 x 60000 pixels"),
    ({"Rows": 0}, "claims 30 x 0 pixels"),
    ({"Rows": 25}, "is damaged .* bytes of pixels"), ({"Rows": 20}, "is damaged .* bytes of pixels"), ({"Columns": 29}, "is damaged"),
    ({"BitsAllocated": 32}, "stores 12 bits of 32"), ({"BitsStored": 17}, "stores 17 bits of 16"), ({"HighBit": 3}, "stores 12 bits"),
    ({"RescaleSlope": 0}, "without a usable RescaleSlope"), ({"PixelRepresentation": 7}, "without a usable PixelRepresentation"),
])
def test_what_a_header_may_claim_and_is_refused(elements, word):
    import re
    assert re.search(word, message := refusal(dicom(TWELVE, **elements))), message


@pytest.mark.parametrize("name", ["PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation"])
def test_files_that_lack_an_element_are_refused(name):
    ds = dataset(TWELVE)
    del ds[name]
    words = {"PixelData": "without pixels", "PhotometricInterpretation": "in colour"}
    assert words.get(name, f"without a usable {name}") in refusal(written(ds))


def test_a_deflated_file_is_refused_before_it_grows():
    ds = dataset(np.zeros((64, 64), np.uint16))
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    assert "deflated" in refusal(written(ds))


def test_a_film_compressor_is_refused():
    assert "no decoder is known" in refusal(wrapped(LS, "MPEG2MPML", ramp()))


@settings(CALM, max_examples=100)
@given(st.data())
def test_a_file_cut_short_is_refused_or_whole(data):
    whole = data.draw(st.sampled_from([dicom(TWELVE, **WINDOW), *jpeg_in_dicom(GREY, TWELVE, WINDOW).values()]))
    cut = whole[: data.draw(st.integers(132, len(whole) - 1))]
    try:
        image = read(cut)
    except Unreadable:
        return
    assert np.array_equal(image, read(whole))


# files

def test_letters_not_suffixes_tell_what_is_dicom(tmp_path):
    for name in ("IM0001", "1.2.840.113619", "x.dcm", "x.png"):
        (tmp_path / name).write_bytes(dicom(TWELVE, **WINDOW))
        assert np.array_equal(read_image(tmp_path / name), read(dicom(TWELVE, **WINDOW))) and image_size(tmp_path / name) == (24, 30)
    assert is_dicom(dicom(TWELVE)) and not is_dicom(dicom(TWELVE)[:131]) and not is_dicom(b"")
    Image.fromarray(GREY).save(tmp_path / "really.png")
    (tmp_path / "really.png").rename(tmp_path / "y.dcm")
    assert np.array_equal(read_image(tmp_path / "y.dcm"), GREY / np.float32(255))
    (tmp_path / "z.dcm").write_bytes(dicom(TWELVE)[132:])
    with pytest.raises(InputError, match="z.dcm: is not an image that can be read"):
        read_image(tmp_path / "z.dcm")


def test_a_dicom_file_may_be_a_mask(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 8:24] = 1
    (tmp_path / "m.dcm").write_bytes(dicom(mask))
    assert np.array_equal(thumbnail(tmp_path / "m.dcm", 32, "mask"), mask[::2, ::2])


# nobody's name gets out

def damaged_files(n: int) -> list[bytes]:
    "Whole files, files with one tag bent towards a tag that is read, and files damaged at random."
    plain, rng = written(dataset(TWELVE, **WINDOW)), np.random.default_rng(0)
    files = [plain, *jpeg_in_dicom(GREY, TWELVE, WINDOW).values(), written(dataset(TWELVE, syntax="ImplicitVRLittleEndian"))]
    names = {0x00100010: b"PN", 0x00100020: b"LO", 0x00080080: b"LO", 0x00081050: b"PN", 0x00100030: b"DA"}
    read_tags = {0x00281050: b"DS", 0x00281052: b"DS", 0x00280008: b"IS", 0x00280004: b"CS", 0x00280010: b"US", 0x00281056: b"CS"}
    for tag, kind in names.items():
        for wanted, as_kind in read_tags.items():
            for vr in (kind, as_kind, b"UI", b"SQ", b"OW"):
                old = tag.to_bytes(4, "big")
                old, new = old[1::-1] + old[:1:-1] + kind, wanted.to_bytes(4, "big")
                assert old in plain
                files.append(plain.replace(old, new[1::-1] + new[:1:-1] + vr))
    return files + [damage(files[i % 6], ["bits", "header bits", "zeros", "a byte lost", "cut"][i % 5], rng, plain) for i in range(n)]


def test_names_are_in_no_message_warning_log_or_traceback(tmp_path, caplog, capfd):
    pydicom.config.debug(True)
    path, said, refused = tmp_path / "x.dcm", [], 0
    try:
        with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
            warnings.simplefilter("always")
            for content in damaged_files(600):
                path.write_bytes(content)
                try:
                    read_image(path)
                except InputError as e:
                    refused += 1
                    assert str(e).startswith(f"{path}: ") and "\n" not in str(e)
                    said += traceback.format_exception(e)
                    logging.getLogger("mine").exception("could not read")
    finally:
        pydicom.config.debug(False)
    heard = "".join([*said, caplog.text, *(str(w.message) for w in warned), *capfd.readouterr()])
    assert refused > 100 and len(heard) > 10_000
    assert not [secret for secret in SECRETS if secret in heard]


def test_no_element_that_names_a_person_is_even_parsed(monkeypatch):
    seen = []
    real = pydicom.dataelem.DataElement.__init__
    monkeypatch.setattr(pydicom.dataelem.DataElement, "__init__",
                        lambda self, tag, *args, **more: seen.append(int(tag)) or real(self, tag, *args, **more))
    content = dicom(TWELVE, **WINDOW)
    seen.clear()
    read(content)
    assert seen and not [f"{tag:08x}" for tag in seen if tag >> 16 in (0x0010, 0x0008, 0x0032, 0x0038, 0x0040)]


def test_names_are_not_in_the_cache(tmp_path):
    paths = [tmp_path / "in" / f"{i}.dcm" for i in range(3)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        path.write_bytes(dicom(np.roll(TWELVE, i), **WINDOW))
    images = cache_images(paths, 32, cache_dir=tmp_path / "cache", progress=False)
    assert np.array_equal(images[1], thumbnail(paths[1], 32))
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() + path.name.encode() for path in files)
    assert files and not [secret for secret in SECRETS if secret.encode() in everything]


def test_pydicom_may_speak_again_after_a_file_was_read(caplog):
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(read, [dicom(TWELVE, **WINDOW)] * 40))
    assert all(np.array_equal(image, images[0]) for image in images)
    assert warnings.filters == before
    logging.getLogger("pydicom").warning("about something else")
    assert "about something else" in caplog.text
    with pytest.warns(UserWarning, match="Invalid value for VR"):
        dataset(TWELVE, PatientBirthDate="not a date")


def test_others_may_speak_while_a_file_is_read(caplog, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()
    real = pydicom.dcmread
    def slow(*args, **more):
        reading.set()
        go_on.wait(10)
        logging.getLogger("pydicom").warning("from the thread that reads")
        return real(*args, **more)
    content = dicom(TWELVE)
    monkeypatch.setattr(pydicom, "dcmread", slow)
    thread = threading.Thread(target=read, args=(content,))
    thread.start()
    assert reading.wait(10)
    logging.getLogger("pydicom").warning("from another thread")
    go_on.set()
    thread.join()
    assert "from another thread" in caplog.text and "from the thread that reads" not in caplog.text


def test_pydicom_reads_the_same_values(tmp_path):
    "The files of these tests are DICOM to others as well."
    path = Path(tmp_path / "x.dcm")
    path.write_bytes(dicom(TWELVE))
    assert np.array_equal(pixel_array(path), TWELVE)
