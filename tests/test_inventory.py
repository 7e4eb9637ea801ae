"""What names and tables say: splits, masks, classes, patients; and the trees that archives really have."""
import os
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimix.audit import audit
from multimix.datasets import kermany_patient
from multimix.images import InputError
from multimix.inventory import Entry, is_mask, list_files, patient_of, read_tables, sort_paths, split_of


@pytest.fixture
def tree(tmp_path):
    "Write small files: images where the suffix is one, else the given text."
    def write(files):
        for name, text in (files if isinstance(files, dict) else dict.fromkeys(files)).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text) if text is not None else Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
        return tmp_path
    return write


def entries(*paths) -> dict[str, Entry]:
    return {e.path: e for e in sort_paths(sorted(paths))}


@pytest.mark.parametrize("folder, split", [
    ("train", "train"), ("Training", "train"), ("TEST", "test"), ("testing", "test"), ("val", "val"), ("valid", "val"),
    ("validation", "val"),
    ("train_images", "train"), ("stage_2_test_images", "test"), ("test set", "test"), ("test-data", "test"), ("fold3", "fold3"),
    ("fold_1", "fold1"), ("dev", "dev"), ("trains", ""), ("contest", ""), ("values", ""), ("attest", ""), ("develop", ""), ("folder", "")])
def test_split_of(folder, split):
    assert split_of(folder) == split


@pytest.mark.parametrize("path, mask", [
    ("a/masks/1.png", True), ("ManualMask/leftMask/1.png", True), ("Segmentation/1.png", True), ("x/1_mask.png", True),
    ("x/1-mask.png", True),
    ("x/1_seg.tif", True), ("images/1.png", False), ("damaskus.png", False), ("x/mask_1.png", False), ("annotation/1.png", True)])
def test_is_mask(path, mask):
    assert is_mask(path) == mask


@pytest.mark.parametrize("path, patient", [
    ("train/PNEUMONIA/person7_bacteria_24.jpeg", "person7"), ("patient00012/study1/view1_frontal.jpg", "patient00012"),
    ("sub-03/anat/x.png", "sub-03"), ("images/00000061_012.png", "00000061"), ("NORMAL/NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115"),
    ("showcase1.png", ""), ("images/1.png", ""), ("a/MCUCXR_0001_0.png", "")])
def test_patient_of(path, patient):
    assert patient_of(path) == patient


@pytest.mark.parametrize("name", ["train/PNEUMONIA/BACTERIA-7422-0001.jpeg", "test/PNEUMONIA/VIRUS-7422-0003.jpeg",
                                  "val/NORMAL/NORMAL-28501-0001.jpeg"])
def test_the_newer_names_of_kermany_are_read_as_the_loader_reads_them(name):
    assert patient_of(name) == kermany_patient(name)


# the layouts that the loaders know, and others


def test_the_layout_of_the_loaders():
    e = entries("kermany/chest_xray/train/NORMAL/IM-0115-0001.jpeg", "kermany/chest_xray/test/PNEUMONIA/person1_virus_6.jpeg",
                "jsrt/images/JPCLN001.png", "jsrt/masks/left_lung/JPCLN001.png", "nih/images/00000061_012.png",
                "montgomery/images/MCUCXR_0001_0.png", "montgomery/masks/MCUCXR_0001_0.png")
    seen = {p: (v.role, v.source, v.split, v.label, v.structure) for p, v in e.items()}
    assert seen == {
        "kermany/chest_xray/train/NORMAL/IM-0115-0001.jpeg": ("image", "kermany", "train", "NORMAL", ""),
        "kermany/chest_xray/test/PNEUMONIA/person1_virus_6.jpeg": ("image", "kermany", "test", "PNEUMONIA", ""),
        "jsrt/images/JPCLN001.png": ("image", "jsrt", "", "", ""),
        "jsrt/masks/left_lung/JPCLN001.png": ("mask", "jsrt", "", "", "left_lung"),
        "nih/images/00000061_012.png": ("image", "nih", "", "", ""),
        "montgomery/images/MCUCXR_0001_0.png": ("image", "montgomery", "", "", ""),
        "montgomery/masks/MCUCXR_0001_0.png": ("mask", "montgomery", "", "", "mask")}


def test_class_folders():
    e = entries("normal/1.png", "pneumonia/2.png")
    assert [v.label for v in e.values()] == ["normal", "pneumonia"] and {v.source for v in e.values()} == {""}
    e = entries("cats/1.png", "dogs/2.png")
    assert [v.label for v in e.values()] == ["cats", "dogs"], "two folders side by side are classes, whatever they are called"
    e = entries("train/cats/1.png", "train/dogs/2.png", "test/cats/3.png")
    assert [(v.split, v.label) for v in e.values()] == [("test", "cats"), ("train", "cats"), ("train", "dogs")]
    e = entries("COVID/images/1.png", "COVID/masks/1.png", "Normal/images/2.png")
    assert [(v.role, v.label) for v in e.values()] == [("image", "COVID"), ("mask", "COVID"), ("image", "Normal")]


def test_folders_that_are_no_classes():
    e = entries("hospital_a/images/1.png", "hospital_b/images/2.png")
    assert [(v.source, v.label) for v in e.values()] == [("hospital_a", ""), ("hospital_b", "")]
    assert {v.label for v in entries("patient1/a.png", "patient2/b.png").values()} == {""}
    assert {v.label for v in entries(*(f"ward{k}/a.png" for k in range(40))).values()} == {""}, "forty folders are no classes"
    assert {v.source for v in entries(*(f"ward{k}/a.png" for k in range(40))).values()} == {""}
    assert entries("a.png")["a.png"] == Entry("a.png")


words = st.text(string.ascii_letters + string.digits + "_- .<>&ü", min_size=1, max_size=12).filter(lambda s: s.strip(" ."))
known = st.sampled_from(["train", "test", "masks", "images", "NORMAL", "person12", "nih", "1_mask", "00000061_012"])


paths_of_words = st.lists(words | known, min_size=1, max_size=5).map(lambda parts: "/".join(parts) + ".png")


@settings(max_examples=80, deadline=None)
@given(st.lists(paths_of_words, min_size=1, max_size=20, unique=True))
def test_any_path_can_be_sorted(paths):
    found = sort_paths(paths)
    assert [e.path for e in found] == paths
    assert all(e.role in ("image", "mask") and (e.role == "mask") == bool(e.structure) for e in found)


# what is in the folder


def test_only_images_are_listed(tree):
    root = tree(["a/1.png", "a/2.JPG", ".hidden/3.png", "__MACOSX/a/4.png", "a/.5.png"])
    tree({"a/list.csv": "x", "a/readme.txt": "x", "Thumbs.db": "x", "a/model.pt": "x", "noname": "x"})
    (root / "a/IM000001").write_bytes(b"\0" * 128 + b"DICM")
    (root / "a/photo").write_bytes(b"\xff\xd8\xff\xe0")
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    images, tables, others = list_files(root)
    assert images == ["a/1.png", "a/2.JPG", "a/IM000001", "a/photo"] and tables == ["a/list.csv"]
    assert others == Counter({".txt": 1, ".pt": 1, "no suffix": 2})


def test_links_are_followed_once(tree):
    root = tree(["a/1.png", "b/2.png"])
    os.symlink(root, root / "a/loop")
    os.symlink(root / "b", root / "a/b")
    images, *_ = list_files(root)
    assert sorted(Path(p).name for p in images) == ["1.png", "2.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
@pytest.mark.parametrize("name, suffix", [("x.png", ".png"), ("x.csv", ".csv"), ("x", "no suffix")])
def test_a_pipe_is_no_image_and_no_table(tree, name, suffix):
    root = tree(["a/1.png"])
    os.mkfifo(root / "a" / name)
    assert list_files(root) == (["a/1.png"], [], Counter({suffix: 1}))


def close_folder(monkeypatch, folder: Path) -> None:
    "Have the system refuse to list a folder."
    scandir = os.scandir

    def refuse(place):
        if Path(place) == folder:
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_can_not_be_listed_is_named(tree, monkeypatch):
    root = tree(["a/1.png", "b/2.png"])
    close_folder(monkeypatch, root / "b")
    assert list_files(root)[0] == ["a/1.png", "b"]
    report = audit(root)
    assert ("unreadable", "serious") in [(f.kind, f.severity) for f in report.findings]
    assert "b: this folder can't be read" in str(report)
    close_folder(monkeypatch, root)
    with pytest.raises(InputError, match="this folder can't be read"):
        list_files(root)


@pytest.mark.parametrize("name, said", [("nowhere", "no such folder"), ("file.png", "is a file"), ("empty", "holds no image")])
def test_what_can_not_be_listed(tree, name, said):
    tree(["file.png"])
    root = tree({"empty/x.txt": "x"})
    with pytest.raises(InputError, match=said) as error:
        list_files(root / name)
    assert str(root / name) in str(error.value) and "\n" not in str(error.value)


# tables


def audit_tables(root):
    images, tables, _ = list_files(root)
    found = sort_paths(images)
    return {e.path: e for e in found}, read_tables(root, tables, found)


def test_a_table_tells_patient_view_class_and_split(tree):
    root = tree(["im/a1.png", "im/a2.png", "im/a3.png"])
    head = "\ufeffImage Index;Finding Labels;Patient ID;View Position;fold"
    tree({"list.csv": f"{head}\na1.png;Mass|Edema;7;PA;training\na2.png;No Finding;8;AP;2\n\n"})
    e, [table] = audit_tables(root)
    assert (e["im/a1.png"].label, e["im/a1.png"].patient, e["im/a1.png"].view, e["im/a1.png"].split) == ("Mass|Edema", "7", "PA", "train")
    assert e["im/a2.png"].split == "2" and e["im/a3.png"].patient == "" and e["im/a1.png"].patient_from == "table"
    assert len(table.found) == 2 == len(table.rows)


def test_suffixes_do_not_count_and_paths_may_have_moved(tree):
    root = tree(["x/train/p1/view1.jpg", "x/train/p2/view1.jpg", "1_IM-0001.dcm.jpg"])
    tree({"a.csv": "Path,AP/PA\nCheXpert/train/p1/view1.png,PA\nCheXpert\\train\\p2\\view1.png,AP\n",
          "b.csv": "filename,projection\n1_IM-0001.dcm.png,Frontal\n"})
    e, _ = audit_tables(root)
    assert [e[p].view for p in ("x/train/p1/view1.jpg", "x/train/p2/view1.jpg", "1_IM-0001.dcm.jpg")] == ["PA", "AP", "Frontal"]


def test_tables_that_name_files_by_patient_and_tables_that_are_joined(tree):
    root = tree(["a/u1.png", "a/u2.png"])
    tree({"a/one.csv": "patientId,class\nu1,Normal\nu2,Sick\n", "a/two.csv": "patientId,split\nu1,train\nu2,test\n"})
    e, tables = audit_tables(root)
    assert [(v.patient, v.label, v.split) for v in e.values()] == [("u1", "Normal", "train"), ("u2", "Sick", "test")]
    root = tree({"a/one.csv": "uid,filename\n11,u1.png\n12,u2.png\n", "a/two.csv": "uid,split\n11,train\n12,test\n13,test\n"})
    e, tables = audit_tables(root)
    assert [(v.patient, v.split) for v in e.values()] == [("11", "train"), ("12", "test")]


def test_a_table_speaks_only_of_its_own_folder(tree):
    root = tree(["a/1.png", "b/1.png"])
    tree({"a/list.csv": "file,view\n1.png,PA\n"})
    e, _ = audit_tables(root)
    assert (e["a/1.png"].view, e["b/1.png"].view) == ("PA", "")


@pytest.mark.parametrize("text", ["", "\n\n", "just words", "id,name\n1,2\n", "file,view\n", "file,view\nother.png,PA\n",
                                  'file,view\n"1.png', "file\n1.png\n\0\n", "file,view\n" + "x" * 200_000 + ",PA\n"], ids=range(9))
def test_tables_that_say_nothing_do_no_harm(tree, text):
    root = tree(["1.png"])
    tree({"list.csv": text})
    e, _ = audit_tables(root)
    assert e["1.png"].view == ""


def test_names_give_way_to_tables_but_labels_of_folders_stay(tree):
    root = tree(["train/NORMAL/person7_virus_1.png"])
    tree({"list.csv": "file,patient,label\nperson7_virus_1.png,4711,PNEUMONIA\n"})
    e, _ = audit_tables(root)
    [v] = e.values()
    assert (v.patient, v.patient_from, v.label) == ("4711", "table", "NORMAL")


def labels(folder) -> dict[str, tuple[str, str]]:
    found = sort_paths(list_files(folder)[0])
    read_tables(folder, list_files(folder)[1], found)
    return {e.path: (e.label, e.patient) for e in found}


@pytest.mark.parametrize("bar", ["/", "\\"])
def test_a_table_of_either_system_tells_equal_names_apart(tree, bar):
    rows = ["path,label,patient", f"train{bar}001.png,pneumonia,p1", f"test{bar}001.png,normal,p2", f"val{bar}001.png,normal,p9"]
    folder = tree({"train/001.png": None, "test/001.png": None, "labels.csv": "\n".join(rows)})
    assert labels(folder) == {"train/001.png": ("pneumonia", "p1"), "test/001.png": ("normal", "p2")}


def test_a_table_speaks_of_its_own_folder_only(tree):
    folder = tree({"site1/images/a.png": None, "site10/images/a.png": None, "site1/labels.csv": "path,label,patient\na.png,pneumonia,p1"})
    assert labels(folder)["site1/images/a.png"] == ("pneumonia", "p1") and labels(folder)["site10/images/a.png"][1] == ""


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_beside_its_target_is_walked_once(tree):
    folder = tree(["train_v1/a.png"])
    os.symlink("train_v1", folder / "train")
    assert len(list_files(folder)[0]) == 1
