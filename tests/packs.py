"""Tiny archives with the names and folders inside that the publishers' own have, and manifests that point to a local server."""
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from multimix.downloads import read_manifest
from multimix.fetch import checksum
from multimix.phantom import make_phantom

SIZE = 48
RIGHT = np.arange(SIZE) < SIZE // 2  # columns of the right lung
CHESTS = make_phantom(24, size=SIZE, seed=2)
LUNGS = CHESTS.masks[:, 0].astype(bool)


def encode(image: np.ndarray, kind: str = "png") -> bytes:
    Image.fromarray(image.astype(np.uint8) * 255 if image.dtype == bool else image).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def pack_zip(files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in files.items():
            z.writestr(name, content)
    return buffer.getvalue()


def pack_tgz(files: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as t:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack_npz(train: int = 60, val: int = 6, test: int = 24) -> bytes:
    images = make_phantom(train + val + test, size=SIZE, seed=1, task="classification").images
    labels = np.arange(len(images), dtype=np.uint8)[:, None] % 2
    ends = np.cumsum([0, train, val, test])
    arrays = {}
    for split, a, b in zip(("train", "val", "test"), ends, ends[1:]):
        arrays |= {f"{split}_images": images[a:b], f"{split}_labels": labels[a:b]}
    np.savez_compressed(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


def montgomery(n: int = 12) -> bytes:
    files = {"MontgomerySet/NLM-MontgomeryCXRSet-ReadMe.pdf": b"%PDF", "__MACOSX/MontgomerySet/._CXR_png": b"x",
             "MontgomerySet/CXR_png/Thumbs.db": b"x"}
    for i in range(n):
        name = f"MCUCXR_{i:04}_{i % 2}"
        files |= {f"MontgomerySet/CXR_png/{name}.png": encode(CHESTS.images[i]), f"MontgomerySet/ClinicalReadings/{name}.txt": b"male 40yr",
                  f"MontgomerySet/ManualMask/leftMask/{name}.png": encode(LUNGS[i] & ~RIGHT),
                  f"MontgomerySet/ManualMask/rightMask/{name}.png": encode(LUNGS[i] & RIGHT)}
    return pack_zip(files)


def kermany(per_class: int = 4) -> bytes:
    files = {"__MACOSX/chest_xray/._train": b"x", "chest_xray/.DS_Store": b"x", "chest_xray/train/NORMAL/.DS_Store": b"x"}
    for i in range(per_class):
        for k, split in enumerate(("train", "test")):
            files[f"chest_xray/{split}/NORMAL/{'NORMAL2-' * k}IM-{i:04}-0001.jpeg"] = encode(CHESTS.images[i + 4 * k], "jpeg")
            files[f"chest_xray/{split}/PNEUMONIA/person{i}_virus_{i}.jpeg"] = encode(CHESTS.images[i + 8 + 4 * k], "jpeg")
    return pack_zip(files)


def iu_report(uid: int) -> bytes:
    return f"""<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION">+PPD &amp; cough</AbstractText>
<AbstractText Label="FINDINGS"/><AbstractText Label="IMPRESSION">Ümlaut, "quoted"</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>Opacity/lung/base/left</major><major>Opacity/pulmonary alveoli</major><major>Cardiomegaly</major></MeSH>
<parentImage id="CXR{uid}_IM-0001-1001"><caption>PA and lateral</caption></parentImage>
<parentImage id="CXR{uid}_IM-0001-2001"/></eCitation>""".encode()


def nih_archives() -> dict[str, bytes]:
    "Three images in each of the twelve archives, the first of which is the one that the manifest names."
    archives = {}
    for entry in read_manifest("nih")["files"]:
        if "first" in entry:
            patient, follow = entry["first"][:-4].split("_")
            names = [f"{patient}_{int(follow) + k:03}.png" for k in range(3)]
            archives[entry["file"]] = pack_tgz({f"images/{name}": encode(CHESTS.images[k]) for k, name in enumerate(names)})
    return archives


def scr_masks(names: list[str], structures=("left lung", "right lung", "heart", "left clavicle")) -> bytes:
    shapes = {"left lung": LUNGS & ~RIGHT, "right lung": LUNGS & RIGHT, "heart": np.zeros_like(LUNGS), "left clavicle": LUNGS}
    return pack_zip({f"masks/{structure}/{name}.gif": encode(shapes[structure][i], "gif")
                     for i, name in enumerate(names) for structure in structures})


class Publisher:
    "Puts archives on a server and writes manifests like those of the package, with its addresses, checksums and counts."

    def __init__(self, server, folder: Path):
        self.server, self.folder = server, folder
        folder.mkdir()

    def publish(self, name: str, archives: dict[str, bytes], holds: dict[str, int], *moods, **changes) -> dict:
        manifest = read_manifest(name) | {"holds": holds} | changes
        for entry in manifest["files"]:
            if entry["file"] in archives:
                (self.folder / "sum").write_bytes(archives[entry["file"]])
                sums = {"sha256": checksum(self.folder / "sum"), "md5": checksum(self.folder / "sum", "md5")}
                entry |= {key: sums[key] for key in sums if entry[key]} | {"bytes": None}
                if entry["addresses"]:
                    entry["addresses"] = [self.server.add(f"{name}/{entry['file']}", archives[entry["file"]], *moods)]
            elif entry["addresses"]:
                entry["addresses"] = [self.server.url(f"{name}/{entry['file']}")]
        (self.folder / "sum").unlink(missing_ok=True)
        (self.folder / f"{name}.json").write_text(json.dumps(manifest), encoding="utf-8")
        return manifest

    def bundle(self) -> None:
        counts = {"chest_xray/train/*/*.png": 66, "chest_xray/test/*/*.png": 24}
        self.publish("pneumoniamnist", {"pneumoniamnist_224.npz": pack_npz()}, counts)
        self.publish("montgomery", {"NLM-MontgomeryCXRSet.zip": montgomery()}, {"images/*.png": 12, "masks/*.png": 12})
        names = [f"CHNCXR_{i:04}_{i % 2}" for i in range(8)]
        images = pack_zip({f"ChinaSet_AllFiles/CXR_png/{name}.png": encode(CHESTS.images[12 + i]) for i, name in enumerate(names)})
        masks = pack_zip({f"mask/mask/{name}_mask.png": encode(LUNGS[12 + i]) for i, name in enumerate(names[:6])})
        self.publish("shenzhen", {"ChinaSet_AllFiles.zip": images, "shcxr-lung-mask.zip": masks}, {"images/*.png": 8, "masks/*.png": 6})
        (self.folder / "open.json").write_text(json.dumps(read_manifest("open")))
