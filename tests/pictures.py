"""Small image files of every kind, made in memory, for the tests of the readers."""
import importlib.util
import io

import numpy as np
from PIL import Image


def chest_like(shape=(72, 80), seed=0) -> np.ndarray:
    "Something smooth with two dark fields, uint8, that uses most of its range."
    y, x = (np.linspace(-1, 1, n) for n in shape)
    lungs = sum(np.exp(-(((x[None] - side) / 0.25) ** 2) - (y[:, None] / 0.6) ** 2) for side in (-0.45, 0.45))
    noise = np.random.default_rng(seed).normal(0, 4, shape)
    return np.clip(235 - 190 * lungs + noise, 0, 255).astype(np.uint8)


def saved(image, kind: str, **options) -> bytes:
    "The bytes of a file that Pillow writes."
    f = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(f, kind, **options)
    return f.getvalue()


def as_npy(array, **options) -> bytes:
    f = io.BytesIO()
    np.save(f, array, **options)
    return f.getvalue()


def as_npz(*arrays, packed: bool = False) -> bytes:
    f = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(f, *arrays)
    return f.getvalue()


def have_dicom() -> bool:
    return importlib.util.find_spec("pydicom") is not None


def dataset(pixels: np.ndarray, bits: int | None = None, syntax: str = "ExplicitVRLittleEndian", **elements):
    "A pydicom data set with these stored values, a patient, and other elements."
    import pydicom.uid
    from pydicom.dataset import Dataset, FileMetaDataset
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, "1.2.826.0.1.3680043.8.498.1"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "SECRETNAME^JANE", "SECRET-ID-0042", "19420101"
    ds.InstitutionName, ds.PerformingPhysicianName, ds.Modality = "SECRET HOSPITAL", "SECRETNAME^DOCTOR", "DX"
    bits = bits or (8 if pixels.itemsize == 1 else 12)
    (ds.Rows, ds.Columns), ds.SamplesPerPixel, ds.PhotometricInterpretation = pixels.shape[-2:], 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8 * pixels.itemsize, bits, bits - 1, int(pixels.dtype.kind == "i")
    order = ">" if syntax == "ExplicitVRBigEndian" else "<"
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(ds, name, value)
    return ds


def written(ds) -> bytes:
    f = io.BytesIO()
    ds.save_as(f, enforce_file_format=True)
    return f.getvalue()


def dicom(pixels: np.ndarray, *args, **elements) -> bytes:
    "The bytes of a DICOM file."
    return written(dataset(pixels, *args, **elements))


def wrapped(stream: bytes, syntax: str, pixels: np.ndarray, **elements) -> bytes:
    "The bytes of a DICOM file with a compressed stream, which stands for `pixels`."
    import pydicom.uid
    from pydicom.encaps import encapsulate
    ds = dataset(pixels, **elements)
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return written(ds)


class Bits:
    "Writes codes of some bits into the bytes of a JPEG scan."

    def __init__(self):
        self.text = []

    def put(self, value: int, length: int):
        self.text.append(format(value, f"0{length}b") if length else "")

    def scan(self) -> bytes:
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def lossless_jpeg(pixels: np.ndarray, bits: int = 12) -> bytes:
    """A lossless JPEG (ITU-T T.81, annex H), each pixel predicted by its left neighbour, in DICOM 1.2.840.10008.1.2.4.70.

    The code of a difference is its number of bits, 0 to 16, in five bits, then the difference itself.
    """
    h, w = pixels.shape
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = values[:, :-1], values[:-1, 0], 1 << (bits - 1)
    out = Bits()
    for d in (values - predicted).ravel().tolist():
        size = abs(d).bit_length()
        out.put(size, 5)
        out.put(d if d >= 0 else d + (1 << size) - 1, size)
    table = b"\xff\xc4\x00\x24\x00" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    frame = b"\xff\xc3\x00\x0b" + bytes([bits]) + h.to_bytes(2, "big") + w.to_bytes(2, "big") + b"\x01\x01\x11\x00"
    return b"\xff\xd8" + table + frame + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00" + out.scan() + b"\xff\xd9"


def jpeg_in_dicom(grey: np.ndarray, twelve: np.ndarray, window: dict) -> dict[str, bytes]:
    "Compressed DICOM files of which this machine has a decoder: `{name: bytes}`."
    from pydicom.pixels import get_decoder
    from pydicom.pixels.encoders import RLELosslessEncoder
    from pydicom.uid import JPEGLosslessSV1
    streams = {
        "baseline": (saved(grey, "JPEG", quality=95), "JPEGBaseline8Bit", grey, {"WindowCenter": 128, "WindowWidth": 256}),
        "jpeg2000": (saved(twelve, "JPEG2000", irreversible=False, no_jp2=True), "JPEG2000Lossless", twelve, window),
        "rle": (RLELosslessEncoder.encode(dataset(twelve), encoding_plugin="pydicom"), "RLELossless", twelve, window),
    }
    if "pylibjpeg" in get_decoder(JPEGLosslessSV1).available_plugins:
        streams["lossless"] = (lossless_jpeg(twelve), "JPEGLosslessSV1", twelve, window)
    return {name: wrapped(stream, syntax, pixels, **elements) for name, (stream, syntax, pixels, elements) in streams.items()}
