"""Labels, patients, splits and masks from tables: every kind that comes, and every mistake by its row."""
import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from multimix.data import MultiTaskData
from multimix.datasets import data_root, load_nih
from multimix.images import InputError, thumbnail
from multimix.sets import ImageSet
from multimix.tables import Table, find_files, read_columns, read_labels, read_table

calm = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
NIH = {"normal": "No Finding", "pneumonia": "Pneumonia"}


def write(folder, text, name="t.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def refused(match, work, *arguments, **options):
    with pytest.raises(InputError, match=match) as error:
        work(*arguments, **options)
    assert "\n" not in str(error.value)


@pytest.fixture
def films(tmp_path):
    "Eight images, two of each patient, and masks of two lungs."
    for folder in ("films", "left", "right"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(tmp_path / f"films/{i}.png")
        for k, side in enumerate(("left", "right")):
            mask = np.zeros((32, 32), np.uint8)
            mask[8:24, 4 + 14 * k:14 + 14 * k] = 255
            Image.fromarray(mask).save(tmp_path / f"{side}/{i}.png")
    rows = [f"{i}.png,{'Pneumonia' if i % 2 else 'No Finding'},p{i // 2},{'test' if i > 5 else 'train'},{i}.png" for i in range(8)]
    write(tmp_path, "\n".join(["path,finding,pid,split,mask", *rows]))
    return tmp_path


def load(folder, table="t.csv", **options):
    return read_table(folder / table, folder / "films", 32, cache_dir=folder / "cache", progress=False, **options)


# cells

cell = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).map(str.strip)


@calm
@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=6), st.sampled_from(",;\t"),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.sampled_from(["\n", "\r\n"]))
def test_whatever_was_written_is_read(tmp_path, rows, mark, encoding, end):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=mark, lineterminator=end)
    writer.writerows([["one", "two", "three"], *rows])
    table = write(tmp_path, out.getvalue(), encoding=encoding)
    kept = [(n, row) for n, row in enumerate(rows, 2) if any(row)]
    if not kept:
        return refused("has no rows below its header", read_columns, table, ["three"])
    t = read_columns(table, ["three", "one"])
    assert t.cells == {"three": [row[2] for _, row in kept], "one": [row[0] for _, row in kept]} and t.rows == [n for n, _ in kept]


@pytest.mark.parametrize("data, match", [
    (b"", "has no rows"), (b"\n\n", "has no rows"), (b"a,b\n", "no rows below its header"), (b"PK\x03\x04rest", "is an Excel workbook"),
    (b"a,b\n1,J\xfcrgen\n", r"line 2 is not UTF-8; .*encoding='cp1252'"), (b"x,y\n1,2\n", "has no column 'a'; its columns are x, y"),
    (b"a,a,b\n1,2,3\n", "more than one column 'a'"), (b"a,b\n1,2\n1\n", "row 3 has 1 cells, the header 2"),
    (b"a,b\n1,2,3\n", "row 2 has 3 cells, the header 2"), (b'a,b\n1,"open\n', "is no CSV"), (b'a,b\n1,"x"y\n', "line 2 is no CSV"),
])
def test_tables_that_cannot_be(tmp_path, data, match):
    (tmp_path / "t.csv").write_bytes(data)
    refused("t.csv: .*" + match, read_columns, tmp_path / "t.csv", ["a"])


def test_tables_that_are_not_there(tmp_path):
    refused("gone.csv: cannot be read", read_columns, tmp_path / "gone.csv", ["a"])
    refused("cannot be read", read_columns, tmp_path, ["a"])
    refused("encoding='klingon'", read_columns, write(tmp_path, "a\n1\n"), ["a"], encoding="klingon")
    assert read_columns(write(tmp_path, "a;ü\n1;ß\n", encoding="cp1252"), ["ü"], encoding="cp1252").cells == {"ü": ["ß"]}
    assert read_columns(write(tmp_path, "a,b,,\n1,2,,\n\n3,4,,\n"), ["b"]).rows == [2, 4]


@calm
@given(st.binary(max_size=200))
def test_junk_is_refused_or_read(tmp_path, junk):
    (tmp_path / "t.csv").write_bytes(junk)
    try:
        assert len(read_columns(tmp_path / "t.csv", ["a"])) > 0
    except InputError as error:
        assert "t.csv" in str(error)


# classes

def table(**cells):
    n = len(next(iter(cells.values())))
    return Table("t.csv", list(range(2, n + 2)), {name: list(values) for name, values in cells.items()})


@pytest.mark.parametrize("cells, classes, labels, names", [
    (["b", "a", "", "b"], None, [1, 0, -1, 1], ("a", "b")),
    (["b", "a", "", "b"], ("b", "a", "c"), [0, 1, -1, 0], ("b", "a", "c")),
    (["0", "1", "1.0", ""], None, [0, 1, 1, -1], ("no x", "x")),
    (["0", "2", "1.0", ""], ("a", "b", "c"), [0, 2, 1, -1], ("a", "b", "c")),
    (["1", "2"], ("2", "1"), [1, 0], ("2", "1")),  # names that are numbers stay names
    (["A|B", "C", "B", "D | A", ""], {"n": "C", "p": ["A", "B"]}, [1, 0, 1, 1, -1], ("n", "p")),
    (["A|B", "C", "B", "D", ""], {"rest": "*", "p": "A"}, [1, 0, 0, 0, -1], ("rest", "p")),
    (["A|B", "C"], {"n": "C", "d": "A"}, [1, 0], ("n", "d")),
])
def test_classes_from_one_column(cells, classes, labels, names):
    found, said = read_labels(table(x=cells), "x", classes)
    assert found.tolist() == labels and said == names and found.dtype == np.int64


def test_classes_from_several_columns():
    t = table(a=["1", "0", "0", "", "-1", "True"], b=["0", "1.0", "0", "", "0", "no"])
    assert read_labels(t, ["a", "b"])[0].tolist() == [0, 1, -1, -1, -1, 0]
    assert read_labels(t, ["b", "a"], ("bee", "ay")) [1] == ("bee", "ay")
    assert read_labels(t, ["a", "b"], {"well": "*", "ill": ["a", "b"]})[0].tolist() == [1, 1, 0, -1, -1, 1]
    assert read_labels(table(a=["1", "0", ""]), ["a"], {"no": "*", "yes": "a"})[0].tolist() == [1, 0, -1]


@pytest.mark.parametrize("cells, classes, match", [
    (["a", "b"], ("a", "c"), "row 3: 'b' is none of the classes a, c"), (["a|b", "a"], None, "row 2: has the findings a and b; say which"),
    (["3", "0"], ("a", "b"), "row 2: '3' is none of the classes a, b"),
    (["a", "b"], {"x": "A", "y": "b"}, "no row is of class 'x', 'A'; the findings are a, b"),
    (["", ""], {"x": "A"}, "the findings are none"),
    (["a|b", "a"], {"x": "a", "y": "b"}, "row 2: is of the classes x and y at once"),
    (["a", "b"], {"x": "a", "y": ["b", "a"]}, "'a' is in two classes"),
])
def test_classes_that_cannot_be(cells, classes, match):
    refused(match, read_labels, table(x=cells), "x", classes)


def test_columns_of_anything_but_0_and_1():
    refused("t.csv: row 3: 'maybe' in column 'b' is neither 0 nor 1", read_labels, table(a=["1", "0"], b=["0", "maybe"]), ["a", "b"])
    refused("row 2: is of the classes a and b at once", read_labels, table(a=["1"], b=["1"]), ["a", "b"])


@calm
@given(st.lists(st.sets(st.sampled_from(["A", "B", "C", "D"])), min_size=1, max_size=20))
def test_one_rule_for_strings_and_columns(rows):
    strings = table(x=["|".join(sorted(row)) for row in rows])
    columns = table(**{name: ["1" if name in row else "" for row in rows] for name in "ABCD"})
    classes = {"ab": ["A", "B"], "c": ["C", "*"]}
    if any(row & {"A", "B"} and "C" in row for row in rows) or not any(row & {"A", "B"} for row in rows):
        return refused("at once|no row", read_labels, strings, "x", classes)
    expected = [0 if row & {"A", "B"} else 1 if row else -1 for row in rows]
    assert read_labels(strings, "x", classes)[0].tolist() == read_labels(columns, list("ABCD"), classes)[0].tolist() == expected


# files

def test_names_are_found_where_they_lie(tmp_path):
    for name in ("a/1.png", "a/deep/2.JPG", "3.dcm.jpg", "b/1.png", "b/4.png", "note.txt", "a/._5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def find(*names, missing="raise"):
        found = find_files(table(path=names), "path", tmp_path, missing)
        return [path and Path(path).relative_to(tmp_path).as_posix() for path in found]

    assert find("a/1.png", "2.JPG", "2", "2.png", "3.dcm.png", "/home/else/4.png", "C:\\x\\4.png") == [
        "a/1.png", "a/deep/2.JPG", "a/deep/2.JPG", "a/deep/2.JPG", "3.dcm.jpg", "b/4.png", "b/4.png"]
    refused("row 2: '1.png' may be .*a.1.png or .*b.1.png", find, "1.png")
    refused("row 3: no file '5.png' in", find, "4.png", "5.png")
    refused("row 2: no file ''", find, "", missing="skip")
    assert find("4", "5", missing="skip") == ["b/4.png", None]
    refused("missing='x'", find, "4", missing="x")
    refused("gone: no such folder", find_files, table(path=["1"]), "path", tmp_path / "gone")


# all of it

def test_a_table_becomes_sets_by_split(films):
    parts = load(films, labels="finding", classes=NIH, patient="pid", split="split")
    assert list(parts) == ["train", "test"] and parts["train"].counts() == {"normal": 3, "pneumonia": 3}
    assert parts["test"].names == ["6.png", "7.png"] and list(parts["test"].patients) == ["p3", "p3"]
    assert np.array_equal(parts["test"].images[1], thumbnail(films / "films/7.png", 32))
    whole = load(films, labels="finding", classes=NIH)
    assert isinstance(whole, ImageSet) and len(whole) == 8 and whole.patients is None and whole.masks is None
    bare = load(films)
    assert bare.labels is None and bare.classes == ()


def test_three_lines_make_training_data(films):
    cls = load(films, labels="finding", classes=NIH, patient="pid", split="split")
    seg = load(films, masks="mask", mask_dir=films / "left", patient="pid", split="split")
    data = MultiTaskData.from_splits(cls, seg, labels=2, masks=2, val=0.34)
    assert data.classes == ("normal", "pneumonia")
    assert set(data.streams()) == {"cls_labeled", "cls_unlabeled", "seg_labeled", "seg_unlabeled"}
    assert {task: len(s) for task, s in data.tests["in_domain"].items()} == {"classification": 2, "segmentation": 2}
    assert len(data.cls_val) == len(data.seg_val) == 2


def test_masks_by_columns(films):
    rows = [f"{i}.png,left/{i}.png,right/{i}.png" for i in range(8)]
    write(films, "\n".join(["path,l,r", *rows]), "masks.csv")
    apart = load(films, "masks.csv", masks=["l", "r"], mask_dir=films, merge=False)
    assert apart.masks.shape == (8, 2, 32, 32)
    assert apart.masks[0, :, 10, 5].tolist() == [1, 0] and apart.masks[0, :, 10, 20].tolist() == [0, 1]
    assert np.array_equal(load(films, "masks.csv", masks=["l", "r"], mask_dir=films).masks[:, 0], apart.masks.max(1))
    write(films, "\n".join(["path,l,r", *rows[:-1], "7.png,left/7.png,"]), "masks.csv")
    refused("masks.csv: row 9: no mask in column 'r'", load, films, "masks.csv", masks=["l", "r"], mask_dir=films)
    assert len(load(films, "masks.csv", masks=["l", "r"], mask_dir=films, others="drop")) == 7
    refused("row 2: one file would be two things: .*films.0.png, .*films.0.png", load, films, "masks.csv", masks="l")  # found by name alone
    refused("row 2: one file would be two things", load, films, "masks.csv", masks=["l", "r"], mask_dir=films / "left", others="drop")


def test_rows_may_be_left_out(films):
    text = (films / "t.csv").read_text().replace("1.png,Pneumonia", "1.png,Mass").replace("2.png,No", "gone.png,No")
    write(films, text)
    kept = load(films, labels="finding", classes=NIH, missing="skip")
    assert kept.names == [f"{i}.png" for i in (0, 1, 3, 4, 5, 6, 7)] and kept.labels[1] == -1
    assert load(films, labels="finding", classes=NIH, missing="skip", others="drop").names == [f"{i}.png" for i in (0, 3, 4, 5, 6, 7)]
    (films / "films/5.png").write_bytes(b"junk")
    (films / "left/6.png").write_bytes(b"junk")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        parts = load(films, labels="finding", classes=NIH, masks="mask", mask_dir=films / "left", split="split", missing="skip",
                     on_error="skip")
    assert {name: part.names for name, part in parts.items()} == {"train": ["0.png", "1.png", "3.png", "4.png"], "test": ["7.png"]}
    assert parts["test"].labels.tolist() == [1] and np.array_equal(parts["test"].images[0], thumbnail(films / "films/7.png", 32))


@pytest.mark.parametrize("old, new, match", [
    ("7.png,Pneumonia,p3", "7.png,Pneumonia,p2", r"patient p2 is on both sides: 4.png \(row 6, train\) and 7.png \(row 9, test\)"),
    ("7.png,Pneumonia", "6.png,Pneumonia", "row 9: names the same file as row 8, 6.png"),
    ("7.png,Pneumonia,p3", "7.png,Pneumonia,", "row 9: nothing in column 'pid'"),
    ("p3,test,7", "p3,,7", "row 9: nothing in column 'split'"),
    ("7.png,Pneumonia", "9.png,Pneumonia", "row 9: no file '9.png'"), ("finding", "label", "no column 'finding'"),
])
def test_faulty_rows_are_named(films, old, new, match):
    text = (films / "t.csv").read_text()
    assert text.count(old) == 1
    write(films, text.replace(old, new))
    refused("t.csv.*" + match, load, films, labels="finding", classes=NIH, patient="pid", split="split")


def test_a_shared_patient_is_allowed_twice_over(films):
    write(films, (films / "t.csv").read_text().replace("7.png,Pneumonia,p3", "7.png,Pneumonia,p2"))
    parts = load(films, labels="finding", classes=NIH, patient="pid", split="split", allow_shared=True)
    refused("1 of its 2 images are of patients in .*, for example 7.png and .* of patient p2",
            MultiTaskData.from_splits, parts, labels=2, val=0)
    with pytest.warns(UserWarning, match="of patient p2"):
        MultiTaskData.from_splits(parts, labels=2, val=0, allow_shared=True)


def test_options_that_cannot_be(films):
    for options, match in [({"others": "x"}, "others='x'"), ({"missing": "x"}, "missing='x'"), ({"on_error": "x"}, "on_error='x'")]:
        refused(match, load, films, **options)
    refused("size=50", read_table, films / "t.csv", films / "films", 50)
    write(films, "path\nx.png\ny.png\n")
    refused("t.csv: none of its 2 rows can be used", load, films, missing="skip")


@pytest.mark.skipif(data_root() is None or not (data_root() / "nih").is_dir(), reason="needs MULTIMIX_DATA with nih/")
def test_the_table_of_chestxray14():
    root = data_root() / "nih"
    there = read_table(root / "Data_Entry_2017_v2020.csv", root / "images", 64, path="Image Index", labels="Finding Labels", classes=NIH,
                       patient="Patient ID", missing="skip", others="drop", progress=False)
    known = load_nih(data_root(), 64, progress=False)
    order = np.argsort(there.names)
    assert there.counts() == {"normal": 236, "pneumonia": 265} and [there.names[i] for i in order] == known.names
    assert np.array_equal(there.labels[order], known.labels) and np.array_equal(there.images[order], known.images)
    assert [f"nih-{key}" for key in there.patients[order]] == list(known.patients)


@pytest.fixture
def twins(tmp_path):
    "Files of the same names in two folders, of which one lacks a file."
    for k, place in enumerate(("train/0001", "train/0002", "test/0002")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32), 10 + 100 * k, np.uint8)).save(tmp_path / f"{place}.png")
    return tmp_path


def test_a_file_that_its_folder_lacks_is_not_taken_from_another(twins):
    write(twins, "path,label\ntest/0001.png,0\ntest/0002.png,1")
    refused("row 2: no file 'test/0001.png'", read_table, twins / "t.csv", twins, 32, labels="label")
    found = read_table(twins / "t.csv", twins, 32, labels="label", missing="skip")
    assert found.names == ["test/0002.png"] and found.images.mean() == 210


@pytest.mark.parametrize("name", [r"test\0002.png", "test/0002", r"D:\data\test\0002.png", "/elsewhere/test/0002.png"])
def test_a_path_from_another_machine_finds_the_file_that_shares_most_of_it(twins, name):
    write(twins, f"path,label\n{name},0")
    assert find_files(read_columns(twins / "t.csv", ["path"]), "path", twins) == [str(twins / "test/0002.png")]


def test_a_bare_name_that_is_there_twice_is_refused(twins):
    write(twins, "path,label\n0002.png,0")
    refused("may be .*test/0002.png or .*train/0002.png", find_files, read_columns(twins / "t.csv", ["path"]), "path", twins)


@pytest.mark.parametrize("classes", [None, ("well", "ill")])
def test_an_uncertain_finding_in_a_single_column_is_unknown(films, classes):
    write(films / "films", "path,Pneumonia\n0.png,1.0\n1.png,0.0\n2.png,-1.0\n3.png,", "c.csv")
    found = read_table(films / "films/c.csv", films / "films", 32, labels="Pneumonia", classes=classes)
    assert found.labels.tolist() == [1, 0, -1, -1] and found.classes == (classes or ("no Pneumonia", "Pneumonia"))


@pytest.mark.parametrize("classes", [("normal", "ill"), ("normal", "ill", "ill")])
def test_names_that_do_not_fit_the_columns_are_refused(films, classes):
    write(films / "films", "path,N,P,C\n0.png,1,0,0\n1.png,0,1,0\n2.png,0,0,1", "c.csv")
    refused("must be different names, and one for each column", read_table, films / "films/c.csv", films / "films", 32,
            labels=["N", "P", "C"], classes=classes)
