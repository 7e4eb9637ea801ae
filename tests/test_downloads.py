"""Data sets by name: the manifests, each set from an archive packed as its publisher packs it, the bundle, faults, and the scripts."""
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock
from urllib.parse import urlparse

import gdown
import numpy as np
import pytest
from packs import (
    CHESTS,
    LUNGS,
    RIGHT,
    SIZE,
    Publisher,
    encode,
    iu_report,
    kermany,
    montgomery,
    nih_archives,
    pack_npz,
    pack_tgz,
    pack_zip,
    scr_masks,
)
from PIL import Image

from multimix import downloads
from multimix.cli import main
from multimix.datasets import (
    LAYOUT,
    LOADERS,
    load_jsrt,
    load_kermany,
    load_montgomery,
    load_nih,
    load_pneumoniamnist,
    load_root,
    load_shenzhen,
)
from multimix.datasets import download as from_datasets
from multimix.downloads import MANIFESTS, catalogue, download, manifest_names, read_manifest, read_source
from multimix.fetch import FetchError
from multimix.images import InputError, read_image
from multimix.layouts import LAY_OUT, split_lungs

ROOT = Path(__file__).resolve().parents[1]
SETS = [name for name in manifest_names() if name != "open"]
each_set = pytest.mark.parametrize("name", SETS)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def publisher(server, tmp_path):
    return Publisher(server, tmp_path / "manifests")


def get(name, **more):
    return download(name, "data", manifests="manifests", progress=False, sleep=lambda s: None, **more)


def tree(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def mask(path) -> np.ndarray:
    return read_image(path) > 0.5


def fails(name, says, **more) -> str:
    with pytest.raises(InputError, match=says) as error:
        get(name, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


# the manifests


def test_there_is_one_for_each_set():
    assert set(SETS) == {"kermany", "pneumoniamnist", "jsrt", "minijsrt", "montgomery", "shenzhen", "nih", "iu_xray", "mescc"}


@each_set
def test_a_manifest_has_every_field(name):
    manifest = read_manifest(name)
    assert set(manifest) == {"name", "title", "page", "access", "licence", "citation", "folder", "role", "note", "files", "holds"}
    assert manifest["name"] == name and manifest["access"] in ("open", "registration") and manifest["files"] and manifest["holds"]
    assert all(isinstance(manifest[key], str) and len(manifest[key]) > 2 for key in set(manifest) - {"files", "holds"})
    assert re.fullmatch(r"\w+", manifest["folder"]) and urlparse(manifest["page"]).scheme in ("http", "https")
    assert all(isinstance(n, int) and n > 0 for n in manifest["holds"].values())
    assert (manifest["access"] == "registration") == any(not e["addresses"] and not e.get("optional") for e in manifest["files"])
    if manifest["folder"] in LAYOUT:
        assert any(manifest["folder"] in sets for sets in LOADERS.values())


@pytest.mark.parametrize("name, entry", [(name, entry) for name in SETS for entry in read_manifest(name)["files"]],
                         ids=lambda x: x if isinstance(x, str) else x["file"])
def test_a_file_of_a_manifest_has_every_field(name, entry):
    needed, more = {"file", "addresses", "bytes", "sha256", "md5", "verified", "source"}, {"page", "pixels", "first", "optional"}
    assert needed <= set(entry) <= needed | more | {"why", "by_hand", "place", "unpack"}
    assert re.fullmatch(r"[\w.-]+", entry["file"]) and len(entry["source"]) > 10
    for kind, digits in (("sha256", 64), ("md5", 32)):
        assert entry[kind] is None or re.fullmatch(rf"[0-9a-f]{{{digits}}}", entry[kind])
    for url in entry["addresses"]:  # without https, only a strong checksum tells that nobody changed the file
        assert urlparse(url).scheme == "https" or (urlparse(url).scheme == "http" and entry["sha256"])
    assert entry["bytes"] is None or isinstance(entry["bytes"], int) and entry["bytes"] > 1000
    if entry["verified"]:
        assert entry["addresses"] and (entry["sha256"] or entry["md5"]) and "why" not in entry
    else:
        assert len(entry["why"]) > 10
    assert ("by_hand" in entry) == (not entry["addresses"]) and ("place" in entry) != ("unpack" in entry)
    for pattern, target in entry.get("unpack", {}).items():
        assert pattern.startswith(("^", "(?i)^")) and pattern.endswith("$") and not target.startswith(("/", ".")) and ".." not in target
        assert re.compile(pattern).groups >= len(set(re.findall(r"\\(\d)", target)))


def test_the_bundle_needs_no_registration_and_its_roles_can_be_played():
    bundle = read_manifest("open")
    names = [part["name"] for part in bundle["parts"]]
    assert all(read_manifest(name)["access"] == "open" for name in names)
    played = {name: task for tasks in bundle["roles"].values() for task, name in tasks.items()}
    assert set(played) == set(names) and all(name in LOADERS[task] for name, task in played.items())
    assert {task for tasks in bundle["roles"].values() for task in tasks} == {"classification", "segmentation"}


def test_what_is_laid_out_by_code_has_a_manifest():
    assert set(LAY_OUT) <= set(SETS)


def test_the_catalogue_names_all_with_size_and_access():
    lines = catalogue().splitlines()
    assert [line.split()[0] for line in lines] == manifest_names() and len(lines) == len(SETS) + 1
    assert re.search(r"^nih +45\.1 GB +open +ChestX-ray14", catalogue(), re.M) and re.search(r"^shenzhen +3\.8 GB\+", catalogue(), re.M)
    assert re.search(r"^jsrt +registration", catalogue(), re.M)


def test_manifests_are_in_the_wheel(tmp_path):
    for name in ("setup.py", "settings.ini", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "multimix", tmp_path / "multimix", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", "out"], cwd=tmp_path, check=True, capture_output=True)
    assert tree(tmp_path / "out/multimix/manifests") == [f"{name}.json" for name in manifest_names()]


@pytest.mark.parametrize("script", sorted((ROOT / "data_download").glob("*.py")), ids=lambda path: path.stem)
def test_scripts_run(script, tmp_path):
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "--to DIR" in done.stdout, done.stderr
    assert len(script.read_text().splitlines()) < 15 and not tree(tmp_path)


def test_every_set_has_its_script_and_its_line_in_the_readme():
    scripts = {path.stem for path in (ROOT / "data_download").glob("*.py")}
    assert scripts == {*manifest_names(), "drive"}
    text = (ROOT / "data_download/README.md").read_text(encoding="utf-8")
    assert [name for name in scripts if f"`{name}`" not in text] == []
    assert [layout for layout in LAYOUT if f"`{layout}/" not in text] == []


# set by set


def test_kermany(publisher, server):
    publisher.publish("kermany", {"ChestXRay2017.zip": kermany()}, {"chest_xray/train/*/*": 8, "chest_xray/test/*/*": 8})
    assert get("kermany") == Path("data/kermany")
    assert tree("data") == ["kermany/SOURCE.json"] + sorted(
        f"kermany/chest_xray/{split}/{name}" for k, split in enumerate(("test", "train")) for i in range(4)
        for name in (f"NORMAL/{'NORMAL2-' * (1 - k)}IM-{i:04}-0001.jpeg", f"PNEUMONIA/person{i}_virus_{i}.jpeg"))
    train, test = load_kermany("data", 32, progress=False)
    assert len(train) == len(test) == 8 and "train-person3" in train.patients


@pytest.mark.parametrize("size, file", [(28, "pneumoniamnist.npz"), (64, "pneumoniamnist_64.npz"), (None, "pneumoniamnist_224.npz")])
def test_pneumoniamnist(publisher, server, size, file):
    publisher.publish("pneumoniamnist", {file: pack_npz(10, 4, 6)}, {"chest_xray/train/*/*.png": 14, "chest_xray/test/*/*.png": 6})
    folder = get("pneumoniamnist", size=size)
    assert [entry[0] for entry in server.log] == [f"/pneumoniamnist/{file}"]
    train, test = load_pneumoniamnist("data", 32, progress=False)
    assert len(train) == 14 and len(test) == 6 and len(set(train.patients)) == 14 and set(train.labels) == {0, 1}
    assert sum(name.split("/")[-1].startswith("val-") for name in train.names) == 4
    [first] = folder.glob("chest_xray/train/*/train-00000.png")
    with Image.open(first) as image:
        assert image.size == (SIZE, SIZE) and image.mode == "L"
    assert read_source(folder)["size"] == (size or 224)
    fails("pneumoniamnist", "pneumoniamnist with size .*, not 128; remove it, or choose another place", size=128)
    assert get("pneumoniamnist", size=size) == folder and len(server.log) == 1


def test_the_pixels_of_pneumoniamnist_are_kept(publisher):
    publisher.publish("pneumoniamnist", {"pneumoniamnist_224.npz": (data := pack_npz(5, 3, 4))}, {"chest_xray/t*/*/*.png": 12})
    folder = get("pneumoniamnist")
    Path("a.npz").write_bytes(data)
    with np.load("a.npz") as arrays:
        for split, n in (("train", 5), ("val", 3), ("test", 4)):
            for i in range(n):
                name = ("NORMAL", "PNEUMONIA")[arrays[f"{split}_labels"][i, 0]]
                path = folder / "chest_xray" / ("test" if split == "test" else "train") / name / f"{split}-{i:05}.png"
                assert (np.asarray(Image.open(path)) == arrays[f"{split}_images"][i]).all()


@pytest.mark.parametrize("break_it", [lambda a: a | {"val_labels": a["val_labels"] + 1},
                                      lambda a: a | {"train_images": a["train_images"] / 255},
                                      lambda a: a | {"test_images": a["test_images"][:-1]}])
def test_arrays_that_are_not_what_they_should_be(publisher, break_it):
    images, labels = np.zeros((4, 28, 28), np.uint8), np.array([[0], [1], [0], [1]])
    arrays = {f"{split}_{what}": value for split in ("train", "val", "test") for what, value in (("images", images), ("labels", labels))}
    np.savez("a.npz", **break_it(arrays))
    publisher.publish("pneumoniamnist", {"pneumoniamnist_224.npz": Path("a.npz").read_bytes()}, {"chest_xray/t*/*/*.png": 12})
    fails("pneumoniamnist", "not grey images of 8 bits with a label of 0 or 1 each")
    assert not Path("data/pneumoniamnist").exists()


def test_montgomery(publisher):
    publisher.publish("montgomery", {"NLM-MontgomeryCXRSet.zip": montgomery()}, {"images/*.png": 12, "masks/*.png": 12})
    folder = get("montgomery")
    names = [f"MCUCXR_{i:04}_{i % 2}.png" for i in range(12)]
    assert tree(folder) == sorted(["SOURCE.json"] + [f"{part}/{name}" for part in ("images", "masks") for name in names])
    assert all((mask(folder / "masks" / name) == LUNGS[i]).all() for i, name in enumerate(names))
    assert len(load_montgomery("data", 32, progress=False)) == 12


def test_shenzhen_has_masks_for_some_and_in_the_size_of_the_image(publisher):
    images = pack_zip({f"ChinaSet_AllFiles/CXR_png/CHNCXR_{i:04}_1.png": encode(CHESTS.images[i]) for i in range(4)})
    drawn = [LUNGS[0], *[np.kron(LUNGS[i], np.ones((2, 2), bool)) for i in (1, 2)]]
    masks = pack_zip({f"mask/mask/CHNCXR_{i:04}_1_mask.png": encode(mask) for i, mask in enumerate(drawn)})
    publisher.publish("shenzhen", {"ChinaSet_AllFiles.zip": images, "shcxr-lung-mask.zip": masks}, {"images/*.png": 4, "masks/*.png": 3})
    folder = get("shenzhen")
    assert all((mask(folder / f"masks/CHNCXR_{i:04}_1.png") == LUNGS[i]).all() for i in range(3))
    shenzhen = load_shenzhen("data", 32, progress=False)
    assert len(shenzhen) == 3 and shenzhen.labels is None and set(shenzhen.patients) == {f"shenzhen-CHNCXR_{i:04}_1" for i in range(3)}


def publish_nih(publisher, table=b"Image Index\n", archives=None):
    files = (archives or nih_archives()) | {"Data_Entry_2017_v2020.csv": table}
    publisher.publish("nih", files, {"images/*.png": 36, "Data_Entry_2017_v2020.csv": 1})


def test_nih_as_a_whole(publisher, server):
    table = b"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    rows = b"".join(f"{entry['first']},{'Pneumonia' if i % 2 else 'No Finding'},0,{i},50,M,PA\n".encode()
                    for i, entry in enumerate(e for e in read_manifest("nih")["files"] if "first" in e))
    publish_nih(publisher, table + rows)
    get("nih")
    assert len(tree("data/nih/images")) == 36 and len(server.log) == 13
    assert load_nih("data", 32, progress=False).counts() == {"normal": 6, "pneumonia": 6}


def test_nih_by_a_list_of_images(publisher, server):
    publish_nih(publisher)
    Path("list.txt").write_text("00001336_001.png\n00001336_000.png\n\n00028173_005.png\n00001336_001.png\n")
    get("nih", images="list.txt")
    assert tree("data/nih/images") == ["00001336_000.png", "00001336_001.png", "00028173_005.png"]
    assert sorted(Path(entry[0]).name for entry in server.log) == ["Data_Entry_2017_v2020.csv", "images_002.tar.gz", "images_012.tar.gz"]
    for images in (["00001336_001.png", "00001336_000.png", "00028173_005.png"], ["00001336_000.png"]):
        assert get("nih", images=images) == Path("data/nih") and len(server.log) == 3
    fails("nih", "nih with images 3, not None")
    fails("nih", "data/nih: holds other images, 00001336_002.png is not among them", images=["00001336_000.png", "00001336_002.png"])
    shutil.rmtree("data/nih")
    fails("nih", "1 of 2 images are not in the archives, such as 00001336_999.png", images=["00001336_000.png", "00001336_999.png"])
    fails("nih", "images: an empty list", images=[])
    fails("nih", "gone.txt: no such file", images="gone.txt")


def test_the_boxes_of_nih_are_taken_if_they_are_there(publisher):
    publish_nih(publisher)
    Path("data/downloads/nih").mkdir(parents=True)
    Path("data/downloads/nih/BBox_List_2017.csv").write_text("Image Index,...\n")
    get("nih", images=["00000001_000.png"])
    assert "BBox_List_2017.csv" in tree("data/nih") and Path("data/downloads/nih/BBox_List_2017.csv").exists()


def test_iu_xray(publisher):
    images = pack_tgz({f"CXR{uid}_IM-0001-{k}001.png": encode(CHESTS.images[k]) for uid in (10, 9) for k in (1, 2)})
    reports = pack_tgz({"ecgen-radiology/10.xml": iu_report(10), "ecgen-radiology/9.xml": iu_report(9)})
    publisher.publish("iu_xray", {"NLMCXR_png.tgz": images, "NLMCXR_reports.tgz": reports}, {"images/*.png": 4, "indiana_*.csv": 2})
    folder = get("iu_xray")
    with open(folder / "indiana_reports.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["uid"] for row in rows] == ["9", "10"]
    assert rows[0] == {"uid": "9", "MeSH": "Opacity/lung/base/left;Opacity/pulmonary alveoli;Cardiomegaly",
                       "Problems": "Opacity;Cardiomegaly", "image": "PA and lateral",
                       "indication": "+PPD & cough", "comparison": "None.", "findings": "",
                       "impression": 'Ümlaut, "quoted"'}
    with open(folder / "indiana_projections.csv", newline="", encoding="utf-8") as f:
        files = list(csv.DictReader(f))
    assert all((folder / "images" / row["filename"]).is_file() for row in files) and len(files) == 4
    assert [row["uid"] for row in files] == ["9", "9", "10", "10"] and {row["projection"] for row in files} == {""}


def test_the_tables_of_iu_xray_have_the_columns_of_the_known_copy():
    if not (data := os.environ.get("MULTIMIX_DATA")) or not (Path(data) / "iu_xray").is_dir():
        pytest.skip("MULTIMIX_DATA names no folder with iu_xray/")
    from multimix.layouts import REPORT

    assert (Path(data) / "iu_xray/indiana_reports.csv").read_text(encoding="utf-8").splitlines()[0] == ",".join(REPORT)
    assert (Path(data) / "iu_xray/indiana_projections.csv").read_text(encoding="utf-8").splitlines()[0] == "uid,filename,projection"


@pytest.mark.parametrize("xml", [b"", b"<html>", b"<eCitation/>", b"\xff\xfe"])
def test_a_damaged_report_is_named(publisher, xml):
    files = {"NLMCXR_png.tgz": pack_tgz({"CXR1_a.png": b"x"}), "NLMCXR_reports.tgz": pack_tgz({"ecgen-radiology/7.xml": xml})}
    publisher.publish("iu_xray", files, {"images/*.png": 1})
    fails("iu_xray", "7.xml: not a report of Open-i")


def arrays_of_mescc(rows=(3, 3)):
    np.save("a.npy", np.zeros((rows[0], 8), np.float32))
    np.save("b.npy", np.arange(rows[1]))
    return {"train-features.npy": Path("a.npy").read_bytes(), "train-targets.npy": Path("b.npy").read_bytes()}


@pytest.mark.parametrize("inside", ["MESCC dataset/", "", "other/"])
def test_mescc(publisher, inside):
    archive = pack_zip({f"{inside}{name}": content for name, content in arrays_of_mescc().items()} | {f"{inside}readme.txt": b"x"})
    publisher.publish("mescc", {"MESCC_dataset.zip": archive}, {"**/*features.npy": 1, "**/*targets.npy": 1})
    folder = get("mescc")
    [features] = folder.rglob("*features.npy")
    assert np.load(features).shape == (3, 8) and len(list(folder.rglob("*.npy"))) == 2


def test_mescc_never_reads_a_pickle(publisher):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, ("pwned",))

    np.save("evil.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    files = arrays_of_mescc() | {"train-features.npy": Path("evil.npy").read_bytes()}
    publisher.publish("mescc", {"MESCC_dataset.zip": pack_zip(files)}, {"*.npy": 2})
    fails("mescc", "train-features.npy: not readable as numbers")
    assert not Path("pwned").exists() and not Path("data/mescc").exists()


def test_mescc_with_rows_missing(publisher):
    publisher.publish("mescc", {"MESCC_dataset.zip": pack_zip(arrays_of_mescc((3, 2)))}, {"*.npy": 2})
    fails("mescc", "train-features.npy: 3 rows, and train-targets.npy 2")


def test_minijsrt(publisher):
    label = [np.where(LUNGS[i], 255, 0).astype(np.uint8) for i in range(3)]
    for picture in label:
        picture[20:24, 20:24] = 85  # a heart
    split = ["train", "train", "test"]
    files = {f"segmentation02/segmentation/org_{split[i]}/case{i % 2:03}.bmp": encode(CHESTS.images[i], "bmp") for i in range(3)}
    files |= {f"segmentation02/segmentation/label_{split[i]}/case{i % 2:03}.png": encode(label[i]) for i in range(3)}
    publisher.publish("minijsrt", {"segmentation02.zip": pack_zip(files)}, {"images/*.png": 3, "masks/left_lung/*.png": 3})
    folder = get("minijsrt")
    assert folder == Path("data/jsrt") and tree(folder / "images") == ["test-case000.png", "train-case000.png", "train-case001.png"]
    left, right = split_lungs(label[0] == 255)
    assert (mask(folder / "masks/left_lung/train-case000.png") == left).all()
    assert (mask(folder / "masks/right_lung/train-case000.png") == right).all()
    assert mask(folder / "masks/heart/train-case000.png").sum() == 16
    assert sum(len(part) for part in load_jsrt("data", 32, progress=False)) == 3
    publisher.publish("jsrt", {}, {"images/*.png": 1})
    fails("jsrt", "data/jsrt: is minijsrt with name minijsrt, not jsrt; remove it, or choose another place")


# JSRT, which only you can get


def jsrt_files(names):
    images = [4095 - np.kron(CHESTS.images[i], np.ones((2048 // SIZE + 1,) * 2))[:2048, :2048] * 16 for i in range(len(names))]
    return {f"All247images/{name}.IMG": image.astype(">u2").tobytes() for name, image in zip(names, images)}


def test_a_set_behind_a_registration_says_what_to_do(publisher, tmp_path):
    publisher.publish("jsrt", {"masks.zip": scr_masks(["JPCLN001"])}, {"images/*.png": 1})
    said = fails("jsrt", "needs a file that only you can get: register at http://db.jsrt.or.jp/eng.php")
    assert said.endswith("put All247images.zip into data/downloads/jsrt, then call again") and not Path("data/jsrt").exists()


@pytest.mark.parametrize("how", ["zip", "loose", "png"])
def test_jsrt_when_you_have_got_it(publisher, how):
    names = ["JPCLN001", "JPCNN002"]
    publisher.publish("jsrt", {"masks.zip": scr_masks(names)}, {"images/*.png": 2, "masks/heart/*.png": 2})
    place = Path("data/downloads/jsrt")
    place.mkdir(parents=True)
    if how == "zip":
        (place / "All247images.zip").write_bytes(pack_zip(jsrt_files(names)))
    for name, content in {} if how == "zip" else jsrt_files(names).items():
        (place / "somewhere").mkdir(exist_ok=True)
        if how == "loose":
            (place / "somewhere" / Path(name).name).write_bytes(content)
        else:
            Image.fromarray(CHESTS.images[names.index(Path(name).stem)]).save(place / f"somewhere/{Path(name).name}.png")
    mine = tree(place)
    folder = get("jsrt")
    assert tree(folder / "masks") == sorted(f"{part}/{name}.png" for part in ("left_lung", "right_lung", "heart") for name in names)
    for i, name in enumerate(names):
        assert abs(read_image(folder / "images" / f"{name}.png") - CHESTS.images[i] / 255).mean() < 0.03
        assert (mask(folder / f"masks/left_lung/{name}.png") == (LUNGS[i] & ~RIGHT)).all()
    assert tree(place) == mine, "what you put there stays"
    assert sum(len(part) for part in load_jsrt("data", 32, progress=False)) == 2


def test_an_image_that_scr_does_not_know(publisher):
    publisher.publish("jsrt", {"masks.zip": scr_masks(["JPCLN001"])}, {"images/*.png": 1})
    Path("data/downloads/jsrt").mkdir(parents=True)
    Image.fromarray(CHESTS.images[0]).save("data/downloads/jsrt/JPCLN154.png")
    fails("jsrt", "JPCLN154.png: SCR has no left_lung for it")


# faults on the way


@pytest.fixture
def mcu(publisher):
    return lambda data=None, *moods, **more: publisher.publish("montgomery", {"NLM-MontgomeryCXRSet.zip": data or montgomery()},
                                                               {"images/*.png": 12, "masks/*.png": 12}, *moods, **more)


def test_a_bad_line_does_not_matter(mcu, server):
    mcu(None, ("cut", 1000), ("status", 503), ("cut", 5000), ("status", 429, {"Retry_After": 1}))
    get("montgomery", tries=9)
    assert len(server.log) == 5 and len(tree("data/montgomery")) == 25


def test_nothing_is_left_but_the_set(mcu):
    mcu()
    get("montgomery")
    assert sorted(os.listdir("data")) == ["montgomery"] and not any("unfinished" in name or ".part" in name for name in tree("data"))


def test_the_archive_can_be_kept(mcu, server):
    mcu()
    get("montgomery", keep=True)
    assert tree("data/downloads") == ["montgomery/NLM-MontgomeryCXRSet.zip"]
    shutil.rmtree("data/montgomery")
    get("montgomery")
    assert len(server.log) == 1 and tree("data/downloads") == ["montgomery/NLM-MontgomeryCXRSet.zip"]


def test_a_file_put_there_by_hand_is_used_and_stays(mcu, server):
    data = montgomery()
    mcu(data, *[("status", 403)] * 9)
    fails("montgomery", "does not let programs in.*by hand: open https://data.lhncbc.*save the file as data/downloads/montgomery/NLM-Mont")
    Path("data/downloads/montgomery").mkdir(parents=True, exist_ok=True)
    Path("data/downloads/montgomery/NLM-MontgomeryCXRSet.zip").write_bytes(data)
    get("montgomery")
    assert len(server.log) == 1 and Path("data/downloads/montgomery/NLM-MontgomeryCXRSet.zip").exists()


def test_a_wrong_file_put_there_by_hand_is_refused_and_stays(mcu):
    mcu()
    Path("data/downloads/montgomery").mkdir(parents=True)
    Path("data/downloads/montgomery/NLM-MontgomeryCXRSet.zip").write_bytes(b"wrong")
    fails("montgomery", "its sha256 is .*remove it, and it will be fetched anew")
    assert Path("data/downloads/montgomery/NLM-MontgomeryCXRSet.zip").read_bytes() == b"wrong" and not Path("data/montgomery").exists()


def test_the_second_address_is_tried(publisher, server):
    manifest = publisher.publish("montgomery", {"NLM-MontgomeryCXRSet.zip": montgomery()}, {"images/*.png": 12})
    entry = manifest["files"][0]
    entry["addresses"] = [server.url("gone.zip"), server.add("wrong.zip", b"wrong"), *entry["addresses"]]
    Path("manifests/montgomery.json").write_text(json.dumps(manifest))
    assert get("montgomery", tries=1) == Path("data/montgomery")


@pytest.mark.parametrize("files, says", [
    ({"MontgomerySet/CXR_png/MCUCXR_0001_0.png": b"x"}, "the archives gave 1 of 12 files images"),
    ({"readme.txt": b"x"}, "the archives gave 0 of 12 files"),
    ({"../evil.png": b"x"}, "not safe to write"),
    ({"MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png": encode(LUNGS[0])}, "left lung and none of the right"),
])
def test_an_archive_with_the_wrong_things_in_it(mcu, files, says):
    mcu(pack_zip(files))
    fails("montgomery", says)
    assert not Path("data/montgomery").exists() and not Path("evil.png").exists()


def test_an_archive_that_is_damaged(mcu):
    data = montgomery()
    mcu(data[:len(data) // 2])
    fails("montgomery", "NLM-MontgomeryCXRSet.zip: is damaged or cut off")
    assert not Path("data/montgomery").exists()


def test_a_mended_archive_is_fetched_anew(mcu, server):
    mcu(pack_zip({"readme.txt": b"x"}))
    fails("montgomery", "gave 0 of 12 files")
    mcu()
    assert len(tree(get("montgomery"))) == 25 and len(server.log) == 2


def test_a_mended_archive_without_a_checksum_too(publisher, server):
    for archive in (pack_zip({"readme.txt": b"x"}), kermany()):
        publisher.publish("kermany", {"ChestXRay2017.zip": archive}, {"chest_xray/train/*/*": 8})
        if not server.log:
            fails("kermany", "gave 0 of 8 files")
    assert len(tree(get("kermany"))) == 17 and len(server.log) == 2


def test_two_archives_with_the_same_file(publisher):
    archives = nih_archives()
    archives["images_002.tar.gz"] = archives["images_001.tar.gz"]
    publish_nih(publisher, archives=archives)
    fails("nih", "images_002.tar.gz: holds 00000001_000.png, which another archive of the set holds too")


def test_a_disk_that_is_too_small_is_known_before(mcu, server):
    manifest = mcu()
    manifest["files"][0]["bytes"] = 10**15
    Path("manifests/montgomery.json").write_text(json.dumps(manifest))
    fails("montgomery", "montgomery: needs about 2000000.0 GB, and the disk of data has")
    assert not server.log


@pytest.mark.parametrize("where", ["multimix.downloads.merge", "multimix.downloads._check_counts", "multimix.downloads._put_together"])
def test_what_was_unpacked_survives_a_kill(publisher, server, where):
    publish_nih(publisher)
    with mock.patch(where, side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        get("nih")
    assert not Path("data/nih").exists() and len(server.log) == 13
    get("nih")
    assert len(tree("data/nih/images")) == 36 and len(server.log) == 13, "nothing is fetched twice"
    assert sorted(os.listdir("data")) == ["nih"]


def test_a_kill_between_two_archives(publisher, server):
    publish_nih(publisher)
    real, calls = downloads.unpack, []

    def fifth(*args, **more):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args, **more)

    with mock.patch("multimix.downloads.unpack", side_effect=fifth), pytest.raises(KeyboardInterrupt):
        get("nih")
    assert len(tree("data/downloads")) == 1, "only the archive that was not unpacked yet"
    get("nih")
    assert len(server.log) == 13 and len(tree("data/nih/images")) == 36


def test_another_choice_starts_over(publisher, server):
    publish_nih(publisher)
    with mock.patch("multimix.downloads.merge", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        get("nih", images=["00000001_000.png", "00000001_001.png"])
    get("nih", images=["00000001_002.png"])
    assert tree("data/nih/images") == ["00000001_002.png"]


def test_two_at_once(mcu):
    from multimix.fetch import locked

    mcu()
    Path("data").mkdir()
    with locked(Path("data/.montgomery.part")):
        fails("montgomery", "another program fetches .montgomery right now")


# what is there already


def test_a_second_call_does_nothing(mcu, server):
    mcu()
    stamps = {path: path.stat().st_mtime_ns for path in get("montgomery").rglob("*")}
    assert {path: path.stat().st_mtime_ns for path in get("montgomery").rglob("*")} == stamps and len(server.log) == 1


def test_a_folder_of_ones_own_is_never_touched(mcu, server):
    mcu()
    Path("data/montgomery").mkdir(parents=True)
    Path("data/montgomery/mine.png").write_bytes(b"mine")
    fails("montgomery", "data/montgomery: is there already, not made by this command, and stays as it is")
    assert tree("data") == ["montgomery/mine.png"] and not server.log


def test_a_file_that_is_gone_is_noticed(mcu):
    mcu()
    (get("montgomery") / "masks/MCUCXR_0003_1.png").unlink()
    fails("montgomery", "1 of 12 files masks/.* are gone since it was made; remove it, and call again")


def test_the_source_is_written_down(mcu):
    data = montgomery()
    mcu(data)
    source = read_source(get("montgomery"))
    assert source["sha256"] == {"NLM-MontgomeryCXRSet.zip": hashlib.sha256(data).hexdigest()}
    assert source["counts"] == {"images/*.png": 12, "masks/*.png": 12}
    assert "Jaeger" in source["citation"] and source["page"].startswith("https")
    assert read_source("data") == {}


@pytest.mark.parametrize("name, more, says", [
    ("montgomerry", {}, "montgomerry: no data set of this name; did you mean montgomery?"), ("../x", {}, "no data set of this name"),
    ("montgomery", {"size": 64}, "size=64: montgomery has one size only"), ("pneumoniamnist", {"size": 100}, r"sizes \[28, 64, 128, 224\]"),
    ("kermany", {"images": ["a.png"]}, "images: kermany is fetched as a whole"),
])
def test_what_cannot_be_asked(name, more, says):
    with pytest.raises(InputError, match=says) as error:
        download(name, "data", progress=False, **more)
    assert "\n" not in str(error.value) and not Path("data").exists()


# the bundle


def test_the_bundle_and_two_steps_of_training(publisher, server):
    publisher.bundle()
    assert get("open") == Path("data")
    assert sorted(os.listdir("data")) == ["montgomery", "pneumoniamnist", "roles.json", "shenzhen"]
    data = load_root("data", 32, labels=4, masks=2, progress=False)
    assert {d: {t: len(s) for t, s in sets.items()} for d, sets in data.tests.items()} == {
        "in_domain": {"classification": 24, "segmentation": 3}, "cross_domain": {"segmentation": 6}}
    words = "train --data data --size 32 --steps 2 --batch 2 --labels 4 --masks 2 --device cpu --out run"
    assert main(words.split()) == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["in_domain"]["segmentation"]["n"] == 3 and results["cross_domain"]["segmentation"]["n"] == 6
    before = len(server.log)
    assert get("open") == Path("data") and len(server.log) == before


def test_one_part_fails_and_the_others_can_be_used(publisher, server):
    publisher.bundle()
    masks = server.files.pop("/shenzhen/shcxr-lung-mask.zip")
    fails("open", "shenzhen could not be had .*no such file.*by hand: open https://www.kaggle.com.*the rest is in data, and the same call")
    assert json.loads(Path("data/roles.json").read_text())["cross_domain"] == {}
    assert set(load_root("data", 32, labels=4, masks=2, progress=False).tests) == {"in_domain"}
    server.files["/shenzhen/shcxr-lung-mask.zip"] = masks
    get("open")
    assert json.loads(Path("data/roles.json").read_text())["cross_domain"] == {"segmentation": "shenzhen"}
    assert len(server.requests("shenzhen/ChinaSet_AllFiles.zip")) == 1


def test_without_a_network_the_bundle_waits_once_and_says_so_shortly(monkeypatch):
    asked = []

    def no_network(url, path, *args, tries=5, **more):
        asked.append(tries)
        raise FetchError(f"{url}: the name of the server is not known here, or there is no network, {tries} times in a row")

    monkeypatch.setattr(downloads, "fetch", no_network)
    says = "^open: pneumoniamnist and montgomery and shenzhen could not be had .*no network, 5 times.*download NAME says"
    with pytest.raises(InputError, match=says) as e:
        download("open", "data", progress=False)
    assert asked[0] == 5 and set(asked[1:]) == {1} and len(str(e.value)) < 600 and "\n" not in str(e.value)


@pytest.mark.parametrize("own", ["roles.json", "kermany", "jsrt"])
def test_roles_of_ones_own_are_left_alone(publisher, own):
    publisher.bundle()
    Path("data").mkdir()
    if own == "roles.json":
        Path("data/roles.json").write_text('{"in_domain": {"segmentation": "montgomery"}}')
    else:
        Path("data", own).mkdir()
    before = {name: Path("data", name).read_text() for name in tree("data")}
    get("open")
    assert {name: Path("data", name).read_text() for name in tree("data") if name.endswith("roles.json")} == before


# the command


def test_the_command(publisher, server, monkeypatch, capsys):
    publisher.bundle()
    monkeypatch.setattr(downloads, "MANIFESTS", Path("manifests"))
    assert main("download open --to xrays".split()) == 0
    out = capsys.readouterr().out
    assert all(str(Path("xrays", name)) in out for name in ("montgomery", "pneumoniamnist", "shenzhen")) and "CC BY-NC-SA 4.0" in out
    assert main("download montgomery --to xrays".split()) == 0
    assert "citation: Jaeger" in capsys.readouterr().out
    for words, says in [("download montgomerry", "did you mean montgomery"), ("download montgomery --size 7", "size=7"),
                        ("download https://drive.google.com/x", "not the address of a file or folder on Google Drive")]:
        assert main(words.split()) == 2
        err = capsys.readouterr().err
        assert err.startswith("multimix: error: ") and says in err and err.count("\n") == 1


@pytest.mark.parametrize("words", ["download --list", "download"])
def test_the_command_lists(words, capsys):
    assert main(words.split()) == 0
    assert capsys.readouterr().out.strip() == catalogue()


# one's own


def test_datasets_has_it_too():
    assert from_datasets is download and MANIFESTS.is_dir()


def test_an_address_of_ones_own(server):
    url = server.add("my%20x-rays.zip", pack_zip({"normal/a.png": encode(CHESTS.images[0])}), ("cut", 50))
    assert download(url, "data", progress=False, sleep=lambda s: None) == Path("data/my x-rays")
    assert tree("data") == [".my x-rays.zip.from", "my x-rays.zip", "my x-rays/normal/a.png"]
    assert download(url, "data", progress=False) == Path("data/my x-rays")
    assert download(server.add("table.csv", b"a,b\n"), "data", progress=False).read_text() == "a,b\n"
    with pytest.raises(InputError, match="does not end in the name of a file"):
        download(server.url(""), "data", progress=False)


def test_an_archive_of_ones_own_is_not_trusted(server):
    url = server.add("evil.zip", pack_zip({"../evil.txt": b"x"}))
    with pytest.raises(InputError, match="not safe to write"):
        download(url, "data", progress=False)
    assert tree(".") == ["data/.evil.zip.from", "data/evil.zip"]


def test_another_address_of_the_same_name_is_not_taken_for_the_first(server):
    first, second = (server.add(f"{place}/main.zip", pack_zip({f"{place}.png": b"x"})) for place in ("one", "two"))
    download(first, "data", progress=False)
    with pytest.raises(InputError, match="data/main.zip: is there, and not from .*two/main.zip"):
        download(second, "data", progress=False)
    Path("mine/main").mkdir(parents=True)
    with pytest.raises(InputError, match="mine/main: is there, and not from"):
        download(first, "mine", progress=False)
    assert tree("data/main") == ["one.png"] and tree("mine") == []


def test_options_that_a_bundle_cannot_follow_are_refused():
    with pytest.raises(InputError, match="open: is several sets; choose size or images for one, such as pneumoniamnist"):
        download("open", "data", size=64, progress=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_of_images_may_come_from_any_editor(encoding):
    Path("list.txt").write_text("b.png\r\na.png\r\n", encoding=encoding)
    assert downloads._names("list.txt") == ["a.png", "b.png"]


def test_a_list_in_another_encoding_is_refused():
    Path("list.txt").write_text("a.png", encoding="utf-16")
    with pytest.raises(InputError, match="list.txt: is no text in UTF-8"):
        download("nih", "data", images="list.txt", progress=False)


@pytest.mark.parametrize("files, result", [({"set.zip": pack_zip({"a/b.png": b"x"})}, "drive-1AbCdEfGhIjKlMnOp/set"),
                                           ({"one.png": b"x"}, "drive-1AbCdEfGhIjKlMnOp/one.png"),
                                           ({"one.png": b"x", "two.png": b"x"}, "drive-1AbCdEfGhIjKlMnOp")])
def test_google_drive(files, result):
    def write(output, **options):
        for name, content in files.items():
            Path(output, name).write_bytes(content)
        return output

    with mock.patch.object(gdown, "download", side_effect=write) as called:
        for _ in range(2):
            path = download("https://drive.google.com/file/d/1AbCdEfGhIjKlMnOp/view", "data", progress=False)
            assert path.exists() and path.as_posix().endswith(result.split("/")[-1])
    assert called.call_count == 1


# splitting lungs


@pytest.mark.parametrize("i", range(24))
def test_lungs_are_told_apart(i):
    left, right = split_lungs(LUNGS[i])
    assert (left == (LUNGS[i] & ~RIGHT)).all() and (right == (LUNGS[i] & RIGHT)).all()


def test_lungs_that_touch_or_are_missing_or_in_pieces():
    touching = LUNGS[0] | (np.arange(SIZE)[:, None] == 24)
    left, right = split_lungs(touching)
    assert (left | right == touching).all() and not (left & right).any() and left.any() and right.any()
    nothing = split_lungs(np.zeros((8, 8), bool))
    assert not nothing[0].any() and not nothing[1].any()
    speck = LUNGS[1].copy()
    speck[2, 3] = speck[3, SIZE - 3] = True
    left, right = split_lungs(speck)
    assert right[2, 3] and left[3, SIZE - 3] and (left | right == speck).all()
