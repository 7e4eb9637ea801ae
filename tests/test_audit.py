"""The audit of a folder: every planted fault is found, a clean folder has none, and the report tells nobody's name."""
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from PIL import Image

from multimix import audit_contents, audit_leaks
from multimix.audit import NEEDS, audit
from multimix.audit_page import AuditReport
from multimix.audit_report import Finding, Group, check_place, read_audit, write_whole
from multimix.cli import main
from multimix.facts import hide, read_all, read_facts
from multimix.images import InputError
from multimix.inventory import Entry, sort_paths
from multimix.phantom import make_phantom
from multimix.sets import read_folders

N = 60
CHESTS, LUNGS = make_phantom(N, size=96, seed=41), make_phantom(16, size=96, seed=42)
DATA = os.environ.get("MULTIMIX_DATA")
needs_data = pytest.mark.skipif(not DATA or not Path(DATA).is_dir(), reason="set MULTIMIX_DATA to the folder with real X-rays")


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture(scope="session")
def clean(tmp_path_factory) -> Path:
    "Classes in two splits, and images with two kinds of masks; nothing is wrong with them."
    root = tmp_path_factory.mktemp("clean")
    for i, (image, label) in enumerate(zip(CHESTS.images, CHESTS.labels)):
        save(root / f"chests/{'train' if i < 40 else 'test'}/{CHESTS.classes[label]}/{i:02}.png", image)
    half = np.arange(96) < 48
    for i, (image, mask) in enumerate(zip(LUNGS.images, LUNGS.masks[:, 0])):
        save(root / f"outlined/images/{i:02}.png", image)
        save(root / f"outlined/masks/right_lung/{i:02}.png", mask * half * np.uint8(255))
        save(root / f"outlined/masks/left_lung/{i:02}.png", mask * ~half * np.uint8(255))
    return root


@pytest.fixture
def folder(clean, tmp_path) -> Path:
    "A copy of `clean` to be spoilt."
    return Path(shutil.copytree(clean, tmp_path / "xrays"))


def chest(root: Path, i: int) -> Path:
    [path] = root.glob(f"chests/*/*/{i:02}.png")
    return path


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def paths_of(report: AuditReport, kind: str) -> list[set[str]]:
    "The files of each group of the findings of one kind."
    return [{report.files[i].path for i in group.files} for f in report.findings if f.kind == kind for group in f.groups]


def test_a_clean_folder_has_no_findings(clean):
    report = audit(clean)
    assert report.findings == [] and report.exit_code(strict=True) == 0
    assert report.verdict() == "No objections: nothing found."
    assert len(report.files) == N + 3 * 16


# what is planted is found, and nothing else


def plant_unreadable(root):
    chest(root, 3).write_bytes(chest(root, 3).read_bytes()[:1500])
    chest(root, 4).write_bytes(b"")
    chest(root, 5).write_text("not an image at all")
    return [{chest(root, i).relative_to(root).as_posix()} for i in (3, 4, 5)]


def plant_leak(root):
    shutil.copy(chest(root, 1), root / "chests/test/normal/copy.png")
    return [{"chests/test/normal/copy.png", chest(root, 1).relative_to(root).as_posix()}]


def plant_leak_in_other_bytes(root):
    Image.open(chest(root, 1)).save(root / "chests/test/normal/copy.bmp")
    return [{"chests/test/normal/copy.bmp", chest(root, 1).relative_to(root).as_posix()}]


def plant_contradiction(root):
    one = next((root / "chests/train/normal").iterdir())
    shutil.copy(one, root / "chests/train/pneumonia/copy.png")
    return [{"chests/train/pneumonia/copy.png", f"chests/train/normal/{one.name}"}]


def plant_copies(root):
    one = chest(root, 45)
    for name in ("a", "b"):
        shutil.copy(one, one.with_name(f"{name}.png"))
    return [{p.relative_to(root).as_posix() for p in (one, one.with_name("a.png"), one.with_name("b.png"))}]


def plant_near_leak(root):
    save(root / "chests/test/normal/small.jpg", cv2.resize(pixels(chest(root, 2)), (70, 70), interpolation=cv2.INTER_AREA), quality=60)
    return [{"chests/test/normal/small.jpg", chest(root, 2).relative_to(root).as_posix()}]


def plant_near_copies(root):
    save(root / "outlined/images/00b.png", cv2.add(LUNGS.images[0], 12))
    for lung in ("left_lung", "right_lung"):
        mask = pixels(root / f"outlined/masks/{lung}/00.png")
        mask[40, 40:43] ^= 255
        save(root / f"outlined/masks/{lung}/00b.png", mask)
    return [{"outlined/images/00.png", "outlined/images/00b.png"}]


def plant_near_sets(root):
    save(root / "others/images/x.jpg", LUNGS.images[5], quality=50)
    return [{"others/images/x.jpg", "outlined/images/05.png"}]


def plant_shared_patient(root):
    rows = [f"{i:02}.png;{4711 if i in (0, 50) else i}" for i in range(N)]
    (root / "chests/patients.csv").write_text("file;Patient ID\n" + "\n".join(rows))
    return [{chest(root, i).relative_to(root).as_posix() for i in (0, 50)}]


def plant_shared_number(root):
    groups = []
    for person in range(3):
        kinds = (("train", "bacteria"), ("test", "virus"))
        paths = [f"kids/{split}/PNEUMONIA/person{person}_{kind}_{person}.png" for split, kind in kinds]
        for k, path in enumerate(paths):
            save(root / path, make_phantom(1, 96, 300 + 10 * person + k).images[0])
        groups.append(set(paths))
    return groups


def plant_mask_alone(root):
    (root / "outlined/images/07.png").unlink()
    return [{"outlined/masks/left_lung/07.png"}, {"outlined/masks/right_lung/07.png"}]


def plant_mask_missing(root):
    (root / "outlined/masks/left_lung/08.png").unlink()
    return [{"outlined/images/08.png"}]


def plant_mask_empty(root):
    save(root / "outlined/masks/left_lung/09.png", np.zeros((96, 96), np.uint8))
    return [{"outlined/images/09.png", "outlined/masks/left_lung/09.png"}]


def plant_mask_size(root):
    path = root / "outlined/masks/left_lung/10.png"
    save(path, cv2.resize(pixels(path), (48, 48), interpolation=cv2.INTER_NEAREST))
    return [{"outlined/images/10.png", "outlined/masks/left_lung/10.png"}]


def plant_mask_grey(root):
    path = root / "outlined/masks/left_lung/11.png"
    save(path, np.where(pixels(path) > 0, np.arange(96, dtype=np.uint8) * 2 + 60, 0).astype(np.uint8))
    return [{"outlined/images/11.png", "outlined/masks/left_lung/11.png"}]


def plant_mask_copies(root):
    shutil.copy(root / "outlined/masks/left_lung/12.png", root / "outlined/masks/left_lung/13.png")
    return [{"outlined/masks/left_lung/12.png", "outlined/masks/left_lung/13.png"}]


def plant_mask_outlier(root):
    path = root / "outlined/masks/left_lung/14.png"
    save(path, np.pad(pixels(path), ((34, 0), (0, 0)))[:96])
    return [{"outlined/images/14.png", "outlined/masks/left_lung/14.png"}]


def plant_blank(root):
    save(chest(root, 6), np.full((96, 96), 90, np.uint8))
    save(chest(root, 7), np.full((96, 96), 90, np.uint8))  # two blank images are no copies of each other
    return [{chest(root, i).relative_to(root).as_posix()} for i in (6, 7)]


def plant_faint(root):
    save(chest(root, 8), (pixels(chest(root, 8)) // 16 + 200).astype(np.uint8))
    return [{chest(root, 8).relative_to(root).as_posix()}]


def plant_inverted(root):
    save(chest(root, 9), 255 - pixels(chest(root, 9)))
    return [{chest(root, 9).relative_to(root).as_posix()}]


def plant_writing(root):
    save(chest(root, 10), cv2.putText(pixels(chest(root, 10)), "DOE JANE", (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA))
    return [{chest(root, 10).relative_to(root).as_posix()}]


def plant_suffix(root):
    path = chest(root, 11)
    path.rename(path.with_suffix(".jpg"))
    return [{path.with_suffix(".jpg").relative_to(root).as_posix()}]


def plant_shortcut(root):
    for path in root.glob("chests/*/pneumonia/*.png"):
        save(path, cv2.resize(pixels(path), (104, 104)))
    return [set()]


def plant_class_missing(root):
    shutil.rmtree(root / "chests/test/normal")
    return [set()]


def plant_no_split(root):
    save(root / "chests/late/1.png", make_phantom(1, 96, 500).images[0])
    return [{"chests/late/1.png"}]


def plant_table_rows(root):
    (root / "chests/views.csv").write_text("file,view\n00.png,PA\ngone.png,AP\n")
    return [set()]


PLANTS = {name[6:].replace("_", "-"): function for name, function in list(globals().items()) if name.startswith("plant_")}
KINDS = {"leak-in-other-bytes": "leak", "inverted": "turned"}


@pytest.mark.parametrize("name", PLANTS)
def test_each_fault_is_found_alone(name, folder):
    expected = PLANTS[name](folder)
    report = audit(folder)
    kind = KINDS.get(name, name)
    assert [f.kind for f in report.findings] == [kind], "nothing else is said"
    assert sorted(map(sorted, paths_of(report, kind))) == sorted(map(sorted, expected))
    [finding] = report.findings
    assert finding.why and finding.title.startswith(f"{len(expected)} ") and finding.severity in ("serious", "warning", "note")
    assert report.exit_code() == (finding.severity == "serious") and report.exit_code(strict=True) == (finding.severity != "note")


def test_faults_do_not_hide_each_other(folder):
    together = ["unreadable", "leak", "near-leak", "mask-alone", "mask-empty", "mask-size", "mask-outlier", "blank", "faint", "inverted",
                "writing"]
    for name in together:
        PLANTS[name](folder)
    report = audit(folder)
    assert {f.kind for f in report.findings} == {KINDS.get(name, name) for name in together}
    ranks = [("serious", "warning", "note").index(f.severity) for f in report.findings]
    assert ranks == sorted(ranks) and report.verdict().startswith("Not ready")


def test_the_numbering_of_kermany_is_doubted_in_words(folder):
    plant_shared_number(folder)
    [finding] = audit(folder).findings
    assert "may not be the same persons: the numbering may restart in each split (train 0 to 2, test 0 to 2)" in finding.why
    assert "In all of 3 the names say another thing on each side (train has …_bacteria_… and test has …_virus_…)" in finding.why


def test_one_patient_of_a_table_is_named_by_a_number(folder):
    plant_shared_patient(folder)
    report = audit(folder)
    assert "4711" not in str(report) + report.to_html() + report.to_json()
    assert re.search(r"patient \d+; (test|train)", report.findings[0].groups[0].note)


def test_masks_by_suffix_and_by_split(tmp_path):
    more = make_phantom(16, 96, 700)
    for i, (image, mask) in enumerate(zip(LUNGS.images, LUNGS.masks[:, 0])):
        split = "train" if i < 10 else "test"
        save(tmp_path / f"suffix/{split}/{i:02}.png", image)
        save(tmp_path / f"suffix/{split}/{i:02}_mask.png", mask * 255)
        save(tmp_path / f"folders/images/{split}/{i % 10}.png", more.images[i])
        save(tmp_path / f"folders/masks/{split}/{i % 10}.png", more.masks[i, 0] * 255)
    assert audit(tmp_path).findings == []


def test_a_single_image_and_images_of_a_few_pixels(tmp_path):
    save(tmp_path / "a.png", CHESTS.images[0])
    assert audit(tmp_path).findings == []
    save(tmp_path / "b.png", np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    save(tmp_path / "c.png", np.zeros((1, 1), np.uint8))
    assert {f.kind for f in audit(tmp_path).findings} <= {"blank", "turned"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_finding(folder):
    chest(folder, 0).chmod(0)
    assert [f.kind for f in audit(folder).findings] == ["unreadable"]


def test_nothing_is_written(folder):
    before = sorted(p.as_posix() for p in folder.rglob("*"))
    audit(folder)
    assert sorted(p.as_posix() for p in folder.rglob("*")) == before


def test_the_number_of_workers_changes_nothing(folder):
    for name in ("unreadable", "leak", "near-leak", "mask-outlier"):
        PLANTS[name](folder)
    assert audit(folder, workers=1).to_json() == audit(folder, workers=7).to_json()


# DICOM


def save_dicom(path: Path, image: np.ndarray, **tags) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, "1.2.826.0.1.3680043.8.498.1"
    (ds.Rows, ds.Columns), ds.SamplesPerPixel, ds.PhotometricInterpretation = image.shape, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.Modality = 16, 12, 11, 0, "DX"
    ds.PixelData = (image.astype("<u2") * 16).tobytes()
    ds["PixelData"].VR = "OW"
    for name, value in tags.items():
        setattr(ds, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


SECRETS = ("XQ4711", "Zwicky", "Ursula", "19620314", "ACC88812", "Zwicky^Ursula")


@pytest.fixture
def hospital(tmp_path) -> Path:
    "An export with the patient's words in folders and names, one patient in two splits, and a file that is cut."
    for i in range(12):
        mine = i in (0, 9)
        tags = dict(PatientID="XQ4711" if mine else f"P{i:06}", PatientName="Zwicky^Ursula" if mine else f"Name{i}^Anna",
                    PatientBirthDate="19620314", AccessionNumber="ACC88812", ViewPosition=("PA", "AP")[i % 2],
                    BurnedInAnnotation=("NO", "YES")[i == 3])
        place = f"zwicky_ursula/XQ4711-{i}" if mine else f"series{i}"
        save_dicom(tmp_path / f"{'train' if i < 8 else 'test'}/{place}/IM{i:04}", CHESTS.images[i], **tags)
    (tmp_path / "train/zwicky_ursula/list.csv").write_text("file,view\nIM0000,PA\nIM9999,AP\n")
    cut = (tmp_path / "train/zwicky_ursula/XQ4711-0/IM0000").read_bytes()
    (tmp_path / "train/zwicky_ursula/XQ4711-0/cut19620314.dcm").write_bytes(cut[:2500])
    return tmp_path


def test_dicom_tells_view_bits_and_patients_and_nobody_is_named(hospital):
    report = audit(hospital)
    written = str(report) + report.to_html() + report.to_json() + "".join(f.facts.name for f in report.files)
    assert [word for word in SECRETS if word.lower() in written.lower()] == []
    assert "P000001" not in written and "Anna" not in written
    known = {(e.view, e.facts.bits, e.facts.mode) for e in report.files if not e.facts.problem}
    assert known == {("PA", 12, "MONOCHROME2"), ("AP", 12, "MONOCHROME2")}
    kinds = {f.kind: len(f.groups) for f in report.findings if f.kind != "class-missing"}  # folders below a split are taken for classes
    assert kinds == {"unreadable": 1, "shared-patient": 1, "private-name": 3, "tagged-writing": 1, "table-rows": 1}
    place = "train/zwicky_ursula/XQ4711-0/"
    assert paths_of(report, "shared-patient") == [{place + "IM0000", place + "cut19620314.dcm", "test/zwicky_ursula/XQ4711-9/IM0009"}]


def test_what_pydicom_says_of_bad_identities_is_not_heard(tmp_path, caplog, capfd):
    "It quotes the value of an element that is not what its type says, here a number of a patient that is called a UID."
    pydicom = pytest.importorskip("pydicom")
    path = tmp_path / "x.dcm"
    save_dicom(path, CHESTS.images[0], PatientID="XQ4711", PatientName="Zwicky^Ursula", ViewPosition="ZWICKY")
    path.write_bytes(path.read_bytes().replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x20\x00UI"))
    with pytest.warns(UserWarning, match="Invalid value for VR UI: 'XQ4711'"):
        str(pydicom.dcmread(path).PatientID)
    capfd.readouterr(), caplog.clear()
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        report = audit(tmp_path)
    heard = "".join([caplog.text, *(str(w.message) for w in warned), *capfd.readouterr(), report.to_json(), report.to_html()])
    assert report.files[0].patient and not warned and [word for word in SECRETS if word.lower() in heard.lower()] == []


def test_a_folder_that_is_called_like_the_patient(hospital):
    written = audit(hospital / "train" / "zwicky_ursula").to_json()
    assert [word for word in SECRETS if word.lower() in written.lower()] == []


def test_names_that_were_hidden_stay_different(hospital):
    names = [f["name"] for f in json.loads(audit(hospital).to_json())["files"]]
    assert len(set(names)) == len(names) and sum("(file " in name for name in names) == 3


def test_patients_keys_differ_from_run_to_run(hospital):
    path = "train/zwicky_ursula/XQ4711-0/IM0000"
    code = f"from multimix.facts import read_facts; print(read_facts({str(hospital)!r}, {path!r}).tags['patient'])"
    keys = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(keys) == 2 and all(len(key) == 17 for key in keys)


def test_who_was_made_anonymous_is_not_called_private(tmp_path):
    for i in range(2):
        one = f"SUBJ{i:04}"
        save_dicom(tmp_path / f"{one}.dcm", CHESTS.images[i], PatientID=one, PatientName=one, PatientIdentityRemoved="YES")
    report = audit(tmp_path)
    assert report.findings == [] and "SUBJ0001" not in report.to_json()


@pytest.mark.parametrize("path, hidden", [
    ("doe/jane/1.dcm", "*/*/1.dcm"), ("DOE_JANE-1.dcm", "*_*-1.dcm"), ("doering/janeway.dcm", "doering/janeway.dcm"),
    ("x4711y/a.dcm", "x4711y/a.dcm"),
    ("x47110815y/a.dcm", "x*y/a.dcm"), ("clean/a.dcm", "clean/a.dcm")])
def test_hide(path, hidden):
    assert hide(path, {"doe", "jane", "doe^jane", "4711", "47110815"}) == hidden


# the report


class Page(HTMLParser):
    "What a browser would load, and whether all elements are closed."
    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.open, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action", "background")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


EVIL = ["<script>alert(1)</script>.png", "a&b \"c\" 'd'.png", "</title><img src=x onerror=alert(1)>.png", "ü 漢字.png"]


def test_the_page_needs_nothing_and_believes_no_name(tmp_path):
    for i, name in enumerate(EVIL):
        parts = name.split("/")
        save(tmp_path.joinpath("normal", *parts), CHESTS.images[i])
        (tmp_path.joinpath("pneumonia", *parts)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path.joinpath("normal", *parts), tmp_path.joinpath("pneumonia", *parts))
    text = audit(tmp_path).to_html()
    page = Page(text)
    known = "html head meta title style body h1 h2 h3 p div b ul li span a section figure img figcaption wbr table tr th td".split()
    assert page.open == [] and set(page.tags) <= set(known)
    assert all(load.startswith(("data:image/jpeg;base64,", "#f")) for load in page.loads)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    shown = "".join(page.words)
    assert all(name.split("/")[-1] in shown for name in EVIL)
    assert page.tags.count("img") == 2 * len(EVIL)


def test_the_page_has_the_verdict_first_then_the_worst(folder):
    for name in ("leak", "mask-empty", "writing"):
        PLANTS[name](folder)
    page = audit(folder).to_html()
    texts = ("Not ready", "1 image is in two splits</h3>", "1 mask is empty</h3>", "1 image may bear writing</h3>", "What is there",
             "Data sets and splits", "Formats and sizes")
    order = [page.index(text) for text in texts]
    assert order == sorted(order) and len(page) < 300_000


def test_a_page_without_the_files_has_no_pictures(folder):
    PLANTS["leak"](folder)
    report = audit(folder)
    shutil.rmtree(folder)
    assert "<img" not in report.to_html() and "1 image is in two splits" in report.to_html()
    report.root = None
    assert "<img" not in report.to_html()


TEXT, SHA = {"type": "string"}, {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def each(**properties) -> dict:
    "An array of objects that have all these properties, and no other."
    one = {"type": "object", "required": list(properties), "additionalProperties": False, "properties": properties}
    return {"type": "array", "items": one}


def texts(*names) -> dict:
    return dict.fromkeys(names, TEXT)


SCHEMA = each(
    **texts("folder", "version", "verdict"), format={"const": "multimix audit 1"}, date={"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"},
    counts={"type": "object", "required": ["serious", "warning", "note"], "additionalProperties": {"type": "integer", "minimum": 0}},
    findings=each(**texts("kind", "title", "why"), severity={"enum": ["serious", "warning", "note"]},
                  groups=each(files={"type": "array", "items": TEXT}, note=TEXT)),
    tables=each(title=TEXT, head={"type": "array", "items": TEXT}, rows={"type": "array", "items": {"type": "array"}}),
    files=each(**texts("name", "source", "split", "class", "patient", "structure", "view", "problem", "format", "mode"),
               role={"enum": ["image", "mask"]}, **dict.fromkeys(["bytes", "bits", "height", "width"], {"type": "integer", "minimum": 1}),
               sha256=SHA, pixels_sha256=SHA))["items"]
SCHEMA["properties"]["files"]["items"]["required"] = ["name", "role"]


def test_json_is_valid_and_round_trips(folder):
    for name in ("unreadable", "leak", "shared-number", "mask-outlier", "table-rows"):
        PLANTS[name](folder)
    report = audit(folder)
    written = report.to_json()
    said = json.loads(written)
    jsonschema.validate(said, SCHEMA)
    names = {f["name"] for f in said["files"]}
    assert all(set(g["files"]) <= names for f in said["findings"] for g in f["groups"])
    again = read_audit(written)
    assert again.to_json() == written and str(again) == str(report) and again.exit_code() == report.exit_code()
    assert "<img" not in again.to_html() and again.verdict() in again.to_html()


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format": "other"}', "<html>"])
def test_other_json_is_refused(text):
    with pytest.raises(InputError, match="not a report of the format"):
        read_audit(text)


def looked_for(report: AuditReport) -> dict:
    [sheet] = [sheet for sheet in report.sheets if sheet.title == "What was looked for"]
    return {(what, severity): number for what, severity, number in sheet.rows}


def test_what_was_looked_for_is_said_and_what_could_not_be(folder, tmp_path):
    PLANTS["leak"](folder), PLANTS["mask-empty"](folder)
    said = looked_for(audit(folder))
    words = audit_leaks.WORDS | audit_contents.WORDS
    assert len(said) == len(words) and set(NEEDS) >= {n[15:] for n in said.values() if str(n).startswith("can't tell: no ")}
    assert {kind for kinds in NEEDS.values() for kind in kinds.split()} <= set(words)
    assert said["images are in two splits or more", "serious"] == 1 == said["masks are empty", "warning"]
    assert said["masks have no image", "serious"] == 0 == said["groups of near copies lie across splits", "warning"]
    assert said["patients are in two splits or more", "serious"] == "can't tell: no patient known by a table or tag"
    save(tmp_path / "one" / "a.png", CHESTS.images[0])
    alone = looked_for(audit(tmp_path / "one"))
    assert alone["images are in two splits or more", "serious"] == "can't tell: no second split"
    assert alone["masks are empty", "warning"] == "can't tell: no mask" and alone["images are blank", "serious"] == 0


def test_images_without_a_view_are_counted(folder):
    PLANTS["table-rows"](folder)
    [views] = [sheet for sheet in audit(folder).sheets if sheet.title == "Views"]
    assert sum(n for *_, n in views.rows) == N and any(view == "not known" for _, view, _ in views.rows)


def test_every_row_of_a_sheet_fits_its_head(folder):
    for name in ("unreadable", "shared-patient", "table-rows", "mask-empty"):
        PLANTS[name](folder)
    (folder / "notes.txt").write_text("x")
    sheets = {sheet.title: sheet for sheet in audit(folder).sheets}
    assert {"Data sets and splits", "Classes", "Views", "Formats and sizes", "Masks", "Tables", "Other files"} <= set(sheets)
    assert all(len(row) == len(sheet.head) for sheet in sheets.values() for row in sheet.rows)
    assert sum(row[2] for row in sheets["Data sets and splits"].rows) == N + 16 and sheets["Other files"].rows == [[".txt", 1]]
    assert {tuple(row[:2]): row[-1] for row in sheets["Classes"].rows} == {
        ("chests", name): int((CHESTS.labels == k).sum()) for k, name in enumerate(CHESTS.classes)}


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    write_whole(target, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", str(target))))
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "new")
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_places_that_can_not_be_written_to(tmp_path):
    for place, said in ((tmp_path, "is a folder"), (tmp_path / "no/report.html", "make it first")):
        with pytest.raises(InputError, match=said):
            check_place(place)


def test_findings_print_without_files():
    report = AuditReport("x", [Entry("a.png")], [Finding("shortcut", "warning", "1 property", "Why.", [Group([], "the view")])])
    assert "    - the view" in str(report) and "the view" in report.to_html()


# reading


def test_read_facts_never_raises(tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path / "good.png", CHESTS.images[0])
    good = (tmp_path / "good.png").read_bytes()
    for n in range(60):
        data = bytearray(good[:rng.integers(0, len(good))] if n % 2 else good)
        for at in rng.integers(0, max(1, len(data)), rng.integers(0, 9)):
            data[at:at + 1] = bytes([rng.integers(256)]) if data else b""
        (tmp_path / "bad.png").write_bytes(data)
        facts = read_facts(tmp_path, "bad.png", ("image", "mask")[n % 3 == 0])
        assert facts.problem or facts.shape != (0, 0)
        assert str(tmp_path) not in facts.problem and "\n" not in facts.problem
    assert read_facts(tmp_path, "gone.png").problem


def test_a_stop_ends_the_reading_at_once(folder, monkeypatch):
    import multimix.facts as module
    calls = []

    def slow(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return read_facts(*args)
    monkeypatch.setattr(module, "read_facts", slow)
    entries = sort_paths([f"{k}.png" for k in range(2000)])
    with pytest.raises(KeyboardInterrupt):
        read_all(folder, entries, workers=1)
    assert len(calls) < 300


# the command


def test_the_command_prints_writes_and_returns_codes(clean, folder, tmp_path, capsys):
    assert main(["audit", str(clean), "--strict"]) == 0
    assert "No objections" in capsys.readouterr().out
    PLANTS["mask-empty"](folder)
    assert main(["audit", str(folder)]) == 0 and main(["audit", str(folder), "--strict"]) == 1
    PLANTS["leak"](folder)
    capsys.readouterr()
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    assert main(["audit", str(folder), "--html", str(page), "--json", str(data)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"Audit of {folder}: {N + 17} images, 32 masks\nNot ready: 1 serious finding, 1 warning.\n")
    assert said.err == ""
    assert page.read_text().startswith("<!doctype html>") and json.loads(data.read_text())["counts"]["serious"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "xrays"]


@pytest.mark.parametrize("words, said", [
    (["nowhere"], "nowhere: no such folder"), (["file.txt"], "file.txt: is a file; name the folder around it"),
    (["empty"], "empty: holds no image"), (["xrays", "--html", "no/report.html"], "no/report.html: no folder no; make it first"),
    (["xrays", "--json", "empty"], "empty: is a folder"), (["xrays", "--html", "f", "--json", "xrays/../f"], "--html and --json are both"),
    ([], "the following arguments are required: DIR"), (["xrays", "--htm", "x.html"], "unrecognized arguments")])
def test_bad_requests_are_one_line_and_code_2(words, said, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file.txt").write_text("x")
    began = time.perf_counter()
    try:
        code = main(["audit", *words])
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2 and output.out == "" and output.err.count("\n") == 1 and output.err.startswith(f"multimix: error: {said}")
    assert time.perf_counter() - began < 30 and sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file.txt", "xrays"]


def test_the_command_is_quick_to_refuse_and_does_not_load_torch(tmp_path):
    code = "import sys; from multimix.cli import main; code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, "audit", str(tmp_path / "nowhere")], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_leaves_nothing_and_returns_130(clean, tmp_path):
    big = tmp_path / "many"
    for k in range(24):
        shutil.copytree(clean / "chests", big / f"set{k}")
    code = ("import os, signal, sys, threading, multimix.audit; from multimix.cli import main; real = multimix.audit.audit\n"
            "def audit(*given, **named):\n    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "    return real(*given, **named)\nmultimix.audit.audit = audit\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell had it ignored\nsys.exit(main(sys.argv[1:]))")
    words = [sys.executable, "-c", code, "audit", str(big), "--html", str(tmp_path / "r.html")]
    process = subprocess.run(words, capture_output=True, text=True, timeout=120)
    err = process.stderr
    assert process.returncode == 130 and err.strip() == "multimix: stopped"
    assert [p.name for p in tmp_path.iterdir()] == ["many"]


# real X-rays


@needs_data
def test_the_thirty_groups_and_the_shared_persons_of_kermany():
    report = audit(Path(DATA, "kermany"))
    findings = {f.kind: f for f in report.findings}
    assert len(findings["copies"].groups) == 30
    assert all(len({report.files[i].facts.sha256 for i in group.files}) == 1 for group in findings["copies"].groups)
    assert set(findings) == {"copies", "shared-number", "writing"} and report.exit_code() == 0
    shared = findings["shared-number"]
    ids = [{re.search(r"person\d+", report.files[i].path)[0] for i in group.files} for group in shared.groups]
    assert len(ids) == 170 and all(len(one) == 1 for one in ids)
    assert "may not be the same persons: the numbering may restart in each split" in shared.why and "In all of 170" in shared.why


@needs_data
@pytest.mark.parametrize("name, masks", [("jsrt", 741), ("montgomery", 138)])
def test_real_masks_raise_no_alarm(name, masks):
    report = audit(Path(DATA, name))
    assert sum(e.role == "mask" for e in report.files) == masks
    assert not [f.kind for f in report.findings if f.kind.startswith("mask")]


@needs_data
def test_nih_finds_its_own_originals_and_its_shortcut():
    root = Path(DATA)
    report = audit(root / "nih")
    kinds = {f.kind: f for f in report.findings}
    assert "view" in kinds["shortcut"].groups[0].note and set(kinds) == {"shortcut", "turned", "writing"}
    assert {e.view for e in report.files} == {"PA", "AP"}


def test_masks_of_equal_names_belong_to_the_images_of_their_own_folder(tmp_path):
    for k, place in enumerate(("p1", "p2")):
        save(tmp_path / f"images/{place}/001.png", CHESTS.images[k][:, :64 + 16 * k])
        save(tmp_path / f"masks/{place}/001.png", LUNGS.masks[k, 0][:, :64 + 16 * k] * np.uint8(255))
    files = sort_paths(["images/p1/001.png", "images/p2/001.png", "masks/p1/001.png", "masks/p2/001.png"])
    assert audit_contents.pair_masks(files)[0] == {2: 0, 3: 1}
    assert "mask-size" not in {finding.code for finding in audit(tmp_path).findings}


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are text there")
def test_a_name_that_is_no_utf8_does_not_stop_audit_or_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x").mkdir()
    name = os.fsencode(tmp_path / "x") + b"/M\xfcller.png"
    Image.fromarray(CHESTS.images[0]).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", name)
    assert main(["audit", str(tmp_path / "x"), "--json", str(tmp_path / "x.json"), "--html", str(tmp_path / "x.html")]) in (0, 1)
    assert "ller.png" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert len(read_folders({"a": tmp_path / "x"}, 32)) == 1
