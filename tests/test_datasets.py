"""The public data sets: small made-up copies with every trap in them, and the real ones where they are."""
import json
import os
import shutil
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from multimix.data import InputError, find_duplicates
from multimix.datasets import (
    _play,
    data_root,
    kermany_patient,
    load_jsrt,
    load_kermany,
    load_montgomery,
    load_nih,
    load_root,
    read_roles,
)
from multimix.images import image_size, list_images, read_image, resize_image

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
NIH = {"a.png": ("Effusion|Pneumonia", 1), "b.png": ("No Finding", 1), "c.png": ("Pneumonia", 2), "d.png": ("Effusion", 3),
       "e.png": ("No Finding", 4)}
CACHE = Path(os.environ.get("MULTIMIX_CACHE") or Path.home() / ".cache" / "multimix")  # for the real ones, which take a while to decode


def save(path, seed, size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path)


def save_mask(path, columns, size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size, size), np.uint8)
    mask[16:48, columns] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("xrays")
    for k, split in enumerate(("train", "test")):
        for i in range(20):
            save(root / f"kermany/chest_xray/{split}/NORMAL/{'NORMAL2-' * (i % 2)}IM-{i // 2:04}-0001.png", 1000 * k + i)
            save(root / f"kermany/chest_xray/{split}/PNEUMONIA/person{i // 2}_{('virus', 'bacteria')[i % 2]}_{i}.png", 1000 * k + 100 + i)
    for i in range(21):
        save(root / f"jsrt/images/JPCLN{i:03}.png", 5000 + i)
        for lung, columns in (("left_lung", slice(36, 56)), ("right_lung", slice(8, 40)), ("heart", slice(0, 64))):
            save_mask(root / f"jsrt/masks/{lung}/JPCLN{i:03}.png", columns)
    for i in range(4):
        save(root / f"montgomery/images/MCUCXR_{i:04}_{i % 2}.png", 6000 + i)
        save_mask(root / f"montgomery/masks/MCUCXR_{i:04}_{i % 2}.png", slice(8, 56))
    for i, name in enumerate(NIH):
        save(root / "nih/images" / name, 7000 + i)
    rows = "".join(f"{name},{found},0,{patient},50,M,PA\n" for name, (found, patient) in NIH.items())
    (root / "nih/Data_Entry_2017_v2020.csv").write_text(HEADER + rows + "far_away.png,Pneumonia,0,9,50,M,PA\n")
    (root / "nih/BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
                                                "c.png,Pneumonia,256,128,512,64,,,\nc.png,Effusion,0,0,9,9,,,\nc.png,Pneumonia,0,0,1024,1024,,,\n\n")
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / "xrays")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))


def load(root, size=32, **options):
    return load_root(root, size, **{"labels": 6, "masks": 3, "progress": False, **options})


# roles

def test_every_set_has_its_role(root):
    data = load(root)
    assert data.cls_labeled.counts() == {"normal": 3, "pneumonia": 3} and len(data.seg_labeled) == 3
    assert data.classes == ("normal", "pneumonia") and data.mask_channels == 1
    sizes = {domain: {task: len(s) for task, s in sets.items()} for domain, sets in data.tests.items()}
    assert sizes == {"in_domain": {"classification": 40, "segmentation": 10}, "cross_domain": {"classification": 4, "segmentation": 4}}
    train_names = data.cls_labeled.names + data.cls_unlabeled.names + data.cls_val.names
    assert len(train_names) == 40 and all(name.startswith("train/") for name in train_names)
    assert not set(data.cls_val.patients) & {*data.cls_labeled.patients, *data.cls_unlabeled.patients}


def test_the_seed_moves_the_training_and_never_the_tests(root):
    runs = [load(root, seed=seed) for seed in range(4)]
    assert len({tuple(run.cls_labeled.names) for run in runs}) > 1 < len({tuple(run.seg_labeled.names) for run in runs})
    for domain in ("in_domain", "cross_domain"):
        for task in ("classification", "segmentation"):
            assert len({tuple(run.tests[domain][task].names) for run in runs}) == 1


@pytest.mark.parametrize("missing", [("kermany",), ("jsrt",), ("nih", "montgomery"), ("jsrt", "montgomery", "nih"), ("kermany", "jsrt")])
def test_any_set_may_be_missing(root, missing):
    for name in missing:
        shutil.rmtree(root / name)
    data = load(root)
    assert (data.cls_labeled is None) == ("kermany" in missing) and (data.seg_labeled is None) == ("jsrt" in missing)
    assert ("classification" in data.tests.get("cross_domain", {})) == ("nih" not in missing)
    assert ("segmentation" in data.tests.get("cross_domain", {})) == ("montgomery" not in missing)


def test_all_sets_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="kermany/.*jsrt/.*nih/.*montgomery/") as error:
        load(tmp_path / "empty")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="gone: no such folder"):
        load(tmp_path / "gone")


def test_the_folder_or_the_one_around_it(root):
    names = [load_kermany(place, 32, progress=False)[0].names for place in (root, root / "kermany", root / "kermany/chest_xray")]
    assert names[0] == names[1] == names[2]
    assert load_montgomery(root, 32, progress=False).names == load_montgomery(root / "montgomery", 32, progress=False).names


def test_the_environment_names_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIMIX_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("MULTIMIX_DATA", str(tmp_path / "gone"))
    assert data_root() is None
    monkeypatch.delenv("MULTIMIX_DATA")
    assert data_root() is None


# faults

@pytest.mark.parametrize("fault, named", [
    (lambda r: [f.unlink() for f in (r / "kermany/chest_xray/train/PNEUMONIA").iterdir()], "train/PNEUMONIA: holds no image"),
    (lambda r: shutil.rmtree(r / "kermany/chest_xray/test/NORMAL"), "test/NORMAL: no such folder"),
    (lambda r: shutil.rmtree(r / "kermany/chest_xray/test"), "kermany/chest_xray/test/ and did not"),
    (lambda r: (r / "kermany/chest_xray/train/NORMAL/IM-0003-0001.png").write_bytes(b"\x89PNG"), "IM-0003-0001.png"),
    (lambda r: (r / "jsrt/images/JPCLN003.png").unlink(), "masks/left_lung/JPCLN003.png: a mask without its image"),
    (lambda r: save_mask(r / "jsrt/masks/right_lung/JPCLN004.png", slice(8, 9), 32),
     "right_lung/JPCLN004.png: the mask is 32x32, its image .*JPCLN004.png is 64x64"),
    (lambda r: [(r / f"jsrt/masks/{lung}_lung/JPCLN005.png").unlink() for lung in ("left", "right")],
     "images/JPCLN005.png: an image without its mask"),
    (lambda r: (r / "montgomery/masks/MCUCXR_0001_1.png").unlink(), "MCUCXR_0001_1.png: an image without its mask"),
    (lambda r: (r / "montgomery/images/MCUCXR_0001_1.png").write_bytes(b""), "MCUCXR_0001_1.png"),
    (lambda r: (r / "nih/Data_Entry_2017_v2020.csv").unlink(), "nih: no Data_Entry_2017"),
    (lambda r: (r / "nih/images/c.png").write_text("<html>"), "nih/images/c.png"),
])
def test_faults_are_named(root, fault, named):
    fault(root)
    with pytest.raises(InputError, match=named.replace("/", r"[\\/]")) as error:
        load(root)
    assert "\n" not in str(error.value)
    assert not any(f.name.startswith(".") for f in (root.parent / "cache").glob("*"))


def test_a_split_that_shares_an_image_is_refused_unless_allowed(root):
    shutil.copy(root / "kermany/chest_xray/train/NORMAL/IM-0003-0001.png", root / "kermany/chest_xray/test/NORMAL/IM-9999-0001.png")
    match = r"\['in_domain'\]\['classification'\]: 1 of its 41 images are in .*IM-9999-0001.png is identical to .*IM-0003-0001.png"
    for _ in range(2):  # whatever the cache holds
        with pytest.raises(InputError, match=match + ".*allow_shared=True, --allow-shared") as error:
            load(root)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match=match):
        assert len(load(root, allow_shared=True).tests["in_domain"]["classification"]) == 41


def test_damaged_files_may_be_left_out(root):
    for name in ("kermany/chest_xray/train/NORMAL/IM-0003-0001.png", "jsrt/images/JPCLN004.png", "nih/images/c.png"):
        (root / name).write_bytes(b"junk")
    whole = len(load_kermany(root, 32, cache_dir=root / "cache", progress=False, on_error="skip")[0])
    with pytest.warns(UserWarning, match="files cannot be used"):
        data = load(root, labels=None, masks=None, on_error="skip")
    assert whole == 39 == len(data.cls_labeled) + len(data.cls_val) and len(data.tests["cross_domain"]["classification"]) == 3
    sets = [data.cls_labeled, data.cls_val, data.seg_labeled, data.seg_val, *data.tests["in_domain"].values()]
    assert not [name for s in sets for name in s.names if "/IM-0003-0001" in name and "train" in name or "JPCLN004" in name]


@pytest.mark.parametrize("options, named", [({"size": 100}, "size=100"), ({"labels": 1000}, "1000 labels"), ({"masks": 100}, "100 masks"),
                                            ({"val": 2}, "fraction=2"), ({"balance": "none"}, "balance='none'")])
def test_faulty_arguments_are_named(root, options, named):
    with pytest.raises(InputError, match=named):
        load(root, **options)


# Kermany

@pytest.mark.parametrize("name, key", [
    ("train/PNEUMONIA/person7_bacteria_24.jpeg", "train-person7"), ("test/PNEUMONIA/person7_virus_1.jpeg", "test-person7"),
    ("train/PNEUMONIA/person1630_virus_2825_1.jpeg", "train-person1630"), ("test/NORMAL/IM-0001-0001.jpeg", "test-IM-0001"),
    ("test/NORMAL/NORMAL2-IM-0001-0001-0002.jpeg", "test-IM-0001"), ("train/NORMAL/other_name.jpeg", "train-other_name"),
])
def test_patient_keys(name, key):
    assert kermany_patient(name) == key


def test_copies_share_a_patient_and_a_leak_is_refused(root):
    folder = root / "kermany/chest_xray"
    train, _ = load_kermany(root, 32, progress=False)
    before = len(set(train.patients))
    shutil.copy(folder / "train/PNEUMONIA/person1_virus_2.png", folder / "train/PNEUMONIA/person99_virus_9.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, _ = load_kermany(root, 32, progress=False)
    assert len(train) == 41 and len(set(train.patients)) == before
    shutil.copy(folder / "train/PNEUMONIA/person1_virus_2.png", folder / "test/PNEUMONIA/person99_virus_9.png")
    with pytest.raises(InputError, match="test/PNEUMONIA/person99_virus_9.png is identical to train/PNEUMONIA/person1_virus_2.png"):
        load(root)


# JSRT

def test_lungs_merge_without_the_heart_and_without_twos(root):
    train, test = load_jsrt(root, 64, progress=False)
    apart, _ = load_jsrt(root, 64, separate_lungs=True, progress=False)
    assert len(train) == 11 and len(test) == 10 and not set(train.names) & set(test.names)
    assert apart.masks.shape[1] == 2 and apart.masks.sum(1).max() == 2  # they overlap here
    assert train.masks.max() == 1 and np.array_equal(np.flatnonzero(train.masks[0, 0, 20]), np.arange(8, 56))
    assert apart.masks[0, 0, 20, 50] == 1 and apart.masks[0, 1, 20, 10] == 1  # left lung first: it is on the right of the picture


# ChestX-ray14

def test_strings_of_findings_become_labels_and_boxes_are_scaled(root):
    nih = load_nih(root, 64, progress=False)
    assert dict(zip(nih.names, nih.labels.tolist())) == {"a.png": 1, "b.png": 0, "c.png": 1, "e.png": 0}
    assert nih.patients.tolist() == ["nih-1", "nih-1", "nih-2", "nih-4"]
    assert [len(boxes) for boxes in nih.boxes] == [0, 0, 2, 0] and nih.boxes[0].shape == (0, 4)
    np.testing.assert_allclose(nih.boxes[2], [[16, 8, 48, 12], [0, 0, 64, 64]])
    assert nih.boxes[2].dtype == np.float32
    (root / "nih/BBox_List_2017.csv").unlink()
    assert sum(map(len, load_nih(root, 64, progress=False).boxes)) == 0


# the real ones

@pytest.fixture(scope="session")
def real():
    root = data_root()
    if root is None or not all((root / name).is_dir() for name in ("kermany", "jsrt", "nih", "montgomery")):
        pytest.skip("the real X-rays are not here: set MULTIMIX_DATA to the folder that holds kermany/, jsrt/, nih/ and montgomery/")
    return {"root": root, "size": 64, "cache_dir": CACHE, "progress": False}


def test_the_real_sets_are_what_their_publications_say(real):
    train, test = load_kermany(**real)
    # E1: the paper has normal and abnormal swapped; with the 8 + 8 images of val these are 1583 and 4273
    assert train.counts() == {"normal": 1341, "pneumonia": 3875} and test.counts() == {"normal": 234, "pneumonia": 390}
    assert not set(train.patients) & set(test.patients) and len(find_duplicates(np.concatenate([train.images, test.images]))) == 30
    for group in find_duplicates(test.images):
        assert len(set(test.patients[group])) == 1
    jsrt, held = load_jsrt(**real)
    assert (len(jsrt), len(held)) == (124, 123) and zlib.crc32(",".join(held.names).encode()) == 2992863094  # the same 123, for ever
    assert len(load_montgomery(**real)) == 138
    nih = load_nih(**real)
    assert nih.counts() == {"normal": 236, "pneumonia": 265} and sum(map(len, nih.boxes)) == 20
    assert all((boxes >= 0).all() and (boxes <= 64).all() and (boxes[:, :2] < boxes[:, 2:]).all() for boxes in nih.boxes)


def test_lungs_are_darker_than_what_is_around_them(real):
    for s in (*load_jsrt(**real), load_montgomery(**real)):
        inside = s.masks[:, 0] == 1
        middle = np.zeros_like(inside)
        middle[:, 24:40, 30:36] = True  # spine and heart
        darker = [image[lung].mean() < image[between & ~lung].mean() for image, lung, between in zip(s.images, inside, middle)]
        assert np.mean(darker) > 0.97 and 0.1 < inside.mean() < 0.5


def enlarged(mask, size):
    "A mask (S, S) bool in the size of an image that is a whole number of times as large."
    return np.kron(mask, np.ones((size // len(mask),) * 2, bool))


@pytest.mark.skipif(data_root() is None or not all((data_root() / name).is_dir() for name in ("fullsize", "jsrt", "nih")),
                    reason="the full-size X-rays are not here: set MULTIMIX_DATA to the folder that holds fullsize/, jsrt/ and nih/")
@pytest.mark.parametrize("kind, size", [("jsrt", 2048), ("nih", 1024)])
def test_originals_are_read_as_their_small_copies_are(kind, size):
    for path in list_images(data_root() / f"fullsize/{kind}_{size}"):
        image, name = read_image(path), path.name.replace(".IMG", "")
        assert image.shape == image_size(path) == (size, size) and image.dtype == np.float32, name
        assert 0 <= image.min() < 0.1 and 0.85 < image.max() <= 1, name
        small = resize_image(image, 256)
        assert np.abs(small - read_image(data_root() / kind / "images" / name)).mean() < 0.01, name
        spine, right, left = (small[80:144, columns].mean() for columns in (slice(120, 144), slice(48, 88), slice(168, 208)))
        assert max(left, right) + 0.1 < spine, f"{name}: lungs are darker than the spine"
        if kind == "jsrt":
            with Image.open(path) as file:  # the palette is turned round: where the numbers in the file are high, the picture is dark
                assert file.mode == "P" and np.corrcoef(np.asarray(file)[::16, ::16].flat, image[::16, ::16].flat)[0, 1] < -0.9, name
            lungs = np.any([read_image(data_root() / f"jsrt/masks/{lung}_lung/{name}") > 0.5 for lung in ("left", "right")], 0)
            around = binary_dilation(lungs, iterations=12) & ~lungs
            assert image[enlarged(lungs, size)].mean() + 0.05 < image[enlarged(around, size)].mean(), name


# other sets in the same roles


def opened(root, **roles):
    "The folder as the open sets would fill it: pneumoniamnist, montgomery and shenzhen."
    (root / "kermany").rename(root / "pneumoniamnist")
    for i in range(5):
        save(root / f"shenzhen/images/CHNCXR_{i:04}_1.png", 8000 + i)
    for i in range(4):
        save_mask(root / f"shenzhen/masks/CHNCXR_{i:04}_1.png", slice(8, 56))
    for name in ("jsrt", "nih"):
        shutil.rmtree(root / name)
    if roles:
        (root / "roles.json").write_text(json.dumps(roles))
    return root


def sizes(data):
    return {(domain, task): len(s) for domain, sets in data.tests.items() for task, s in sets.items()}


def test_sets_step_in_for_those_that_are_missing(root):
    assert read_roles(opened(root)) == {"in_domain": {"classification": "pneumoniamnist"}, "cross_domain": {"segmentation": "montgomery"}}
    shutil.rmtree(root / "montgomery")
    assert read_roles(root)["cross_domain"] == {"segmentation": "shenzhen"}
    assert sizes(load(root)) == {("in_domain", "classification"): 40, ("cross_domain", "segmentation"): 4}


def test_the_paper_sets_come_first(root):
    shutil.copytree(root / "kermany", root / "pneumoniamnist")
    assert read_roles(root) == {"in_domain": {"classification": "kermany", "segmentation": "jsrt"},
                                "cross_domain": {"classification": "nih", "segmentation": "montgomery"}}


def test_roles_can_be_said(root):
    opened(root, in_domain={"classification": "pneumoniamnist", "segmentation": "montgomery"}, cross_domain={"segmentation": "shenzhen"},
           by="somebody")
    data = load(root, masks=1, val=0)
    assert sizes(data) == {("in_domain", "classification"): 40, ("in_domain", "segmentation"): 1, ("cross_domain", "segmentation"): 4}
    trained = {*data.seg_labeled.names, *data.seg_unlabeled.names}
    assert len(trained) == 3 and not trained & set(data.tests["in_domain"]["segmentation"].names)
    runs = [load(root, masks=1, val=0, seed=seed).tests["in_domain"]["segmentation"].names for seed in range(3)]
    assert runs[0] == runs[1] == runs[2]


def test_a_set_with_a_published_test_part_is_tested_on_that_abroad(root):
    (root / "roles.json").write_text('{"in_domain": {"segmentation": "montgomery"}, "cross_domain": {"classification": "kermany", '
                                     '"segmentation": "jsrt"}}')
    assert sizes(load(root, masks=1, val=0)) == {("in_domain", "segmentation"): 1, ("cross_domain", "classification"): 40,
                                                ("cross_domain", "segmentation"): 10}


# sets of one's own

TABLE = {"table": "list.csv", "images": "export", "path": "file", "labels": "finding", "patient": "patient", "split": "split"}


@pytest.fixture
def own(tmp_path):
    "A table of ten patients with two images each, folders by class, and outlined images."
    rows = ["file,finding,patient,split"]
    for i in range(20):
        kind = ("normal", "pneumonia")[i // 2 % 2]
        save(tmp_path / f"export/study{i:02}/IM1.png", i)
        save(tmp_path / f"{kind}/{i:02}.png", i)
        rows.append(f"study{i:02}/IM1.png,{kind},P{i // 2},{'test' if i >= 16 else 'val' if i >= 12 else 'train'}")
        save(tmp_path / f"lungs/{i:02}.png", 100 + i)
        save_mask(tmp_path / f"left/{i:02}.png", slice(36, 56)), save_mask(tmp_path / f"right/{i:02}.png", slice(8, 28))
    (tmp_path / "list.csv").write_text("\n".join(rows))
    return tmp_path


def told(own, **roles):
    (own / "roles.json").write_text(json.dumps(roles))
    return own


def test_a_table_and_masks_of_ones_own(own):
    told(own, in_domain={"classification": TABLE, "segmentation": {"images": "lungs", "masks": ["left", "right"]}})
    data = load(own, labels=4, masks=3)
    assert data.classes == ("normal", "pneumonia") and data.cls_labeled.counts() == {"normal": 2, "pneumonia": 2}
    assert set(data.cls_val.patients) == {"P6", "P7"} and set(data.tests["in_domain"]["classification"].patients) == {"P8", "P9"}
    assert len(data.cls_labeled) + len(data.cls_unlabeled) == 12 and sizes(data)["in_domain", "segmentation"] == 5
    assert data.seg_labeled.masks[:, 0, 16, 10].all() and data.seg_labeled.masks[:, 0, 16, 22].all()  # both lungs in one channel
    told(own, in_domain={"segmentation": {"images": "lungs", "masks": "left"}}, cross_domain={"classification": TABLE})
    assert sizes(load(own, masks=3)) == {("in_domain", "segmentation"): 5, ("cross_domain", "classification"): 4}


def test_images_of_ones_own_without_a_mask_train_without_one(own):
    for i in range(20, 26):
        save(own / f"lungs/{i}.png", 100 + i)
    held = told(own, in_domain={"segmentation": {"images": "lungs", "masks": "left"}})
    tested = {Path(name).name for name in load(held, masks=3).tests["in_domain"]["segmentation"].names}
    save(own / "lungs/26.png", 100 + int(min(tested)[:2]))  # a copy of a test image, without a mask
    data = load(held, masks=3, val=0.2)
    assert {Path(name).name for name in data.tests["in_domain"]["segmentation"].names} == tested
    rest = {Path(name).name for name in data.seg_unlabeled.names}
    assert {f"{i}.png" for i in range(20, 26)} <= rest and "26.png" not in rest and not rest & tested
    assert len(data.seg_labeled) + len(data.seg_val) + len(data.seg_unlabeled) == 15 + 6


def test_patients_of_two_hospitals_may_have_the_same_numbers(own):
    (own / "other.csv").write_text((own / "list.csv").read_text().replace("study", "scan").replace(",train", ",test"))
    for i in range(20):
        save(own / f"export/scan{i:02}/IM1.png", 500 + i)
    two = {"in_domain": {"classification": TABLE}, "cross_domain": {"classification": TABLE | {"table": "other.csv"}}}
    with pytest.raises(InputError, match="of patient P"):
        load(told(own, **two), labels=4)
    two["cross_domain"]["classification"]["source"] = "Shenzhen"
    data = load(told(own, **two), labels=4)
    assert set(data.tests["cross_domain"]["classification"].patients) == {f"Shenzhen: P{i}" for i in (0, 1, 2, 3, 4, 5, 8, 9)}
    two["in_domain"]["classification"]["source"] = "Shenzhen"  # as one hospital: refused again
    with pytest.raises(InputError, match="of patient Shenzhen: P"):
        load(told(own, **two), labels=4)


def test_folders_of_ones_own_and_published_sets_play_together(own, root):
    shutil.copytree(root / "nih", own / "nih")
    folders = {"images": {"normal": "normal", "pneumonia": "pneumonia"}}
    told(own, in_domain={"classification": folders}, cross_domain={"classification": "nih"})
    save(own / "normal/again.png", 0)  # a copy of 00.png: on the same side
    data = load(own, labels=4, val=0)
    assert sizes(data) == {("in_domain", "classification"): 5, ("cross_domain", "classification"): 4} and data.seg_labeled is None
    sides = [{Path(n).name for n in names} for names in (data.cls_labeled.names + data.cls_unlabeled.names,
                                                          data.tests["in_domain"]["classification"].names)]
    assert any({"00.png", "again.png"} <= side for side in sides)


def test_a_table_that_shares_a_patient_is_refused_and_names_both(own):
    told(own, in_domain={"classification": TABLE})
    (own / "list.csv").write_text((own / "list.csv").read_text().replace("P8,test", "P0,test"))
    with pytest.raises(InputError, match="P0 is on both sides: study00/IM1.png .*study16/IM1.png") as error:
        load(own, labels=4)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="P0"):
        load(own, labels=4, allow_shared=True)


@pytest.mark.parametrize("task, wrong, says", [
    ("classification", {}, "is .*CLASS: FOLDER"), ("classification", {"images": "normal"}, "is .*CLASS: FOLDER"),
    ("classification", {"images": {"normal": 1}}, "is .*CLASS: FOLDER"), ("classification", {"table": "list.csv"}, "is .*CLASS: FOLDER"),
    ("classification", TABLE | {"colour": "x"}, "is .*CLASS: FOLDER"), ("classification", TABLE | {"table": 3}, "is .*CLASS: FOLDER"),
    ("segmentation", {"images": "lungs"}, "LEFT, RIGHT"), ("segmentation", {"images": "lungs", "masks": [1]}, "LEFT, RIGHT"),
    ("segmentation", TABLE, "LEFT, RIGHT"), ("detection", TABLE, "for classification or segmentation"),
    ("classification", TABLE | {"table": "nowhere.csv"}, "nowhere.csv"), ("classification", TABLE | {"labels": "colour"}, "colour"),
    ("segmentation", {"images": "lungs", "masks": "nowhere"}, "nowhere"), ("classification", TABLE | {"source": 3}, "source: a word"),
    ("segmentation", {"images": "lungs", "masks": "left", "source": ["a"]}, "source: a word"),
])
def test_descriptions_that_can_not_be_followed(own, task, wrong, says):
    with pytest.raises(InputError, match=says) as error:
        load(told(own, in_domain={task: wrong}), labels=4, masks=3)
    assert "\n" not in str(error.value)


def test_a_table_without_a_test_or_a_training_part(own):
    (own / "list.csv").write_text((own / "list.csv").read_text().replace(",test", ",val2").replace(",val2", ",val"))
    with pytest.raises(InputError, match="none of the splits train, val is for the test"):
        load(told(own, cross_domain={"classification": TABLE}))
    (own / "list.csv").write_text((own / "list.csv").read_text().replace(",train", ",test").replace(",val", ",test"))
    with pytest.raises(InputError, match="none of the splits test is for training"):
        load(told(own, in_domain={"classification": TABLE}))


@pytest.mark.parametrize("text, named", [
    ("", "is no JSON"), ('{"in_domain": {},}', "line 1 column"),
    ("[]", "not of the form"), ('{"in_domain": "kermany"}', "not of the form"), ("{}", "gives no set a role"),
    ('{"in_domain": {"classification": "jsrt"}}', "'jsrt' can't play 'classification'"),
    ('{"in_domain": {"classification": ["kermany"]}}', "can't play 'classification'"),
    ('{"in_domain": {"detection": "kermany"}}', "can't play 'detection'"),
    ('{"in_domain": {"segmentation": "shenzhen"}}', "shenzhen is not in this folder"),
    ('{"in_domain": {"segmentation": "jsrt"}, "cross_domain": {"segmentation": "jsrt"}}', "jsrt has two roles"),
    ('{"in_domain": {"classification": "kermany"}, "cross_domain": {"classification": "pneumoniamnist"}}', "the same children"),
    ('{"in_domain": {"classification": "kermany"}, "cross-domain": {"segmentation": "jsrt"}}', "'cross-domain' is none of in_domain"),
    ('{"in_domain": {"classification": {"table": "t.csv", "labels": null}}}', "a set of your own is"),
    ('{"in_domain": {"classification": {"table": "t.csv", "labels": "label", "sep": 3}}}', "a set of your own is"),
    ('{"in_domain": {"classification": {"images": {}}}}', "a set of your own is"),
])
def test_roles_that_cannot_be_played(root, text, named):
    shutil.copytree(root / "kermany", root / "pneumoniamnist")
    (root / "roles.json").write_text(text)
    with pytest.raises(InputError, match=f"roles.json: .*{named}") as error:
        load(root)
    assert "\n" not in str(error.value)


def test_montgomery_gives_a_quarter_of_its_patients(original):
    montgomery = load_montgomery(original, 32, progress=False)
    many = type(montgomery)(np.repeat(montgomery.images[:1], 138, 0), [f"MCUCXR_{i:04}_0.png" for i in range(138)],
                            masks=np.repeat(montgomery.masks[:1], 138, 0),
                            patients=np.array([f"montgomery-MCUCXR_{i:04}_0" for i in range(138)]))
    train, test = _play(many, "segmentation", "in_domain").values()
    assert len(test) == 34 and len(train) == 104 and not set(train.patients) & set(test.patients)


@pytest.mark.parametrize("name, child", [
    ("train/PNEUMONIA/BACTERIA-7422-0001.jpeg", "child-7422"), ("test/PNEUMONIA/VIRUS-7422-0003.jpeg", "child-7422"),
    ("train/NORMAL/NORMAL-28501-0001.jpeg", "child-28501"), ("train/NORMAL/NORMAL2-IM-0115-0001.jpeg", "train-IM-0115"),
    ("test/PNEUMONIA/person7_bacteria_24.jpeg", "test-person7"), ("train/NORMAL/other.jpeg", "train-other")])
def test_the_child_on_an_image_of_either_edition(name, child):
    assert kermany_patient(name) == child
