"""Damage image files of every kind in many ways, read them, and judge what came out: `python tests/damaged.py [FILES] [SEED]`.

A file is *read right* (the pixels of the undamaged file), *refused* (an `InputError` of one line that names it), or
*damaged but plausible*.
What must never happen: another exception, a crash, a hang, or **silent garbage**, which is any of

- an array that is not float32 `(H, W)`, finite, within [0, 1], or is of another size than the undamaged image;
- a file cut short, emptied or renamed whose pixels differ in the least from the undamaged ones;
- different pixels from a format with checksums over all of its content (PNG, npz, the strips of a deflate TIFF);
- damage among the uncompressed pixels of eight bits that shows anywhere but where it struck.

Damaged but plausible is what remains: the header or the compressed data of a format without checksums was hit, it still decodes to an
image of the right size, and nothing in the file contradicts it. The size of a JPEG is held to whole blocks of its coding (a flipped bit may
cost or add a part of the last), and an orientation tag that was hit may turn the image.
"""
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from pictures import as_npy, as_npz, chest_like, dicom, have_dicom, jpeg_in_dicom, saved
from PIL import Image

from multimix.images import InputError, read_image

SHAPE = (72, 80)
CHECKED = {"png8", "png16", "palette", "rgba", "interlaced", "npz", "npz_packed"}
FLAT = {"bmp", "npy8", "tiff8", "dicom8"}  # eight bits, uncompressed: name -> where a byte of the file is a pixel


def corpus() -> dict[str, tuple[str, bytes]]:
    "Undamaged files, `{kind: (suffix, bytes)}`."
    grey = chest_like(SHAPE)
    wide, twelve, unit = grey.astype(np.uint16) * 257, grey.astype(np.uint16) * 16, (grey / 255).astype(np.float32)
    image, palette, turned = Image.fromarray(grey), Image.fromarray(255 - grey), Image.Exif()
    palette.putpalette([255 - i for i in range(256) for _ in "RGB"])
    turned[274] = 6
    files = {
        "png8": (".png", saved(grey, "PNG")), "png16": (".png", saved(wide, "PNG")), "palette": (".png", saved(palette, "PNG")),
        "rgba": (".png", saved(image.convert("RGBA"), "PNG")), "jpeg": (".jpg", saved(grey, "JPEG")),
        "jpeg_colour": (".jpg", saved(image.convert("RGB"), "JPEG")), "jpeg_restart": (".jpg", saved(grey, "JPEG", restart_marker_rows=1)),
        "jpeg_progressive": (".jpg", saved(grey, "JPEG", progressive=True)), "jpeg_turned": (".jpg", saved(grey, "JPEG", exif=turned)),
        "bmp": (".bmp", saved(grey, "BMP")), "bmp_colour": (".bmp", saved(image.convert("RGB"), "BMP")),
        "tiff8": (".tif", saved(grey, "TIFF")), "tiff12": (".tif", saved(twelve, "TIFF")), "tiff_fraction": (".tif", saved(unit, "TIFF")),
        "npy8": (".npy", as_npy(grey)), "npy16": (".npy", as_npy(twelve)), "npy_fraction": (".npy", as_npy(unit)),
        "npz": (".npz", as_npz(twelve)), "npz_packed": (".npz", as_npz(twelve, packed=True)),
        "img": (".IMG", np.resize(4095 - twelve, (2048, 2048)).astype(">u2").tobytes()),
    }
    files |= {f"tiff_{how}": (".tif", saved(grey, "TIFF", compression=how)) for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits")}
    if have_dicom():
        window = {"WindowCenter": 2040.5, "WindowWidth": 4081}
        files |= {"dicom8": (".dcm", dicom(grey, WindowCenter=128, WindowWidth=256)), "dicom12": (".dcm", dicom(twelve, **window)),
                  "dicom_turned_over": (".dcm", dicom(4080 - twelve, PhotometricInterpretation="MONOCHROME1"))}
        files |= {f"dicom_{how}": (".dcm", data) for how, data in jpeg_in_dicom(grey, twelve, window).items()}
    return files


def damage(data: bytes, how: str, rng: np.random.Generator, other: bytes) -> bytes:
    "The bytes of a file after an accident."
    b, n = bytearray(data), len(data)
    if how == "cut":
        return bytes(b[: rng.integers(0, n)])
    if how in ("bits", "header bits"):
        for place in rng.integers(0, min(n, 400) if how == "header bits" else n, rng.integers(1, 6)):
            b[place] ^= 1 << rng.integers(8)
    elif how == "zeros":
        start = rng.integers(0, n)
        end = min(n, start + int(rng.integers(1, 1 + n // 3)))
        b[start:end] = bytes(end - start)
    elif how == "a byte lost":
        del b[rng.integers(0, n)]
    elif how == "spliced":  # the beginning of one file, the end of another
        at = rng.integers(1, n)
        return bytes(b[:at]) + other[min(at, len(other)) :]
    return bytes(b)  # renamed


WAYS = ["cut", "cut", "bits", "bits", "header bits", "header bits", "zeros", "a byte lost", "spliced", "renamed"]


def allowed_shapes(kind: str, shape: tuple[int, int]) -> set[tuple[int, int]]:
    "Sizes that a damaged file may be read with."
    if not kind.startswith("jpeg"):
        return {shape}
    block = 16 if kind == "jpeg_colour" else 8
    spans = [range(block * ((side - 1) // block) + 1, block * ((side - 1) // block) + block + 1) for side in shape]
    shapes = {(h, w) for h in spans[0] for w in spans[1]}
    return shapes | {(w, h) for h, w in shapes} if kind == "jpeg_turned" else shapes


def judge(kind: str, how: str, data: bytes, whole: bytes, image: np.ndarray, truth: np.ndarray, other: np.ndarray) -> str:
    "'right', 'plausible', or what is wrong; a spliced file may have become the `other` image."
    if image.dtype != np.float32 or image.ndim != 2 or not (image.min() >= 0 and image.max() <= 1):
        return f"GARBAGE: {image.dtype} {image.shape} from {image.min()} to {image.max()}"
    if np.array_equal(image, truth) or (how == "spliced" and np.array_equal(image, other)):
        return "right"
    if how in ("cut", "renamed") or kind in CHECKED:
        return f"GARBAGE: other pixels ({how})"
    if image.shape not in allowed_shapes(kind, truth.shape):
        return f"GARBAGE: {image.shape} instead of {truth.shape}"
    start = whole.find(np.uint8(np.round(truth[-1 if kind == "bmp" else 0] * 255)).tobytes()) if kind in FLAT else -1
    struck = np.flatnonzero(np.frombuffer(data, np.uint8) != np.frombuffer(whole, np.uint8)) if len(data) == len(whole) else [-1]
    if start > 0 and len(struck) and start <= min(struck) and max(struck) < start + truth.size and (image != truth).sum() > len(struck):
        return f"GARBAGE: {len(struck)} bytes of pixels struck, {(image != truth).sum()} pixels changed"
    return "plausible"


def main(files: int = 2000, seed: int = 0) -> int:
    "Number of failures; prints a table of what became of the files."
    warnings.simplefilter("ignore")  # Pillow's words on corrupt EXIF data
    kinds, table, failures, slowest = corpus(), Counter(), [], 0.0
    folder = Path(tempfile.mkdtemp())
    names = list(kinds)
    truth = {}
    for name, (suffix, data) in kinds.items():
        (folder / f"whole{suffix}").write_bytes(data)
        truth[name] = read_image(folder / f"whole{suffix}")
    light = [name for name in names if name != "img"]
    for i in range(files):
        rng = np.random.default_rng([seed, i])
        kind = "img" if i % 50 == 49 else light[i % len(light)]
        how, second = WAYS[rng.integers(len(WAYS))], light[rng.integers(len(light))]
        (suffix, whole), other = kinds[kind], kinds[second]
        data = b"" if i % 97 == 96 else damage(whole, how, rng, other[1])
        path = folder / f"{i}{other[0] if how == 'renamed' and kind != 'img' else suffix}"
        path.write_bytes(data)
        start = time.perf_counter()
        print(f"{i} {kind} {how}", file=sys.stderr, flush=True)  # the last line tells where a crash was
        try:
            verdict = judge(kind, how if data else "cut", data, whole, read_image(path), truth[kind], truth[second])
        except InputError as e:
            verdict = "refused" if str(e).startswith(f"{path}: ") and "\n" not in str(e) else f"GARBAGE: message {e!r}"
        except BaseException as e:
            verdict = f"GARBAGE: {type(e).__name__}: {e}"
        slowest = max(slowest, time.perf_counter() - start)
        path.unlink()
        table[kind, how, verdict.split(":")[0]] += 1
        failures += [f"{i} {kind} {how}: {verdict}"] if verdict.startswith("GARBAGE") else []
    for group in (0, 1):
        print(f"\n{'':20}{'right':>10}{'refused':>10}{'plausible':>10}")
        for name in dict.fromkeys(sorted(key[group] for key in table)):
            row = [sum(n for key, n in table.items() if key[group] == name and key[2] == v) for v in ("right", "refused", "plausible")]
            print(f"{name:20}" + "".join(f"{n:10}" for n in row))
    print(f"\n{files} files, seed {seed}: {len(failures)} failures; the slowest took {slowest:.2f} s", *failures, sep="\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
