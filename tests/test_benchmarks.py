"""Scripts in benchmarks/ that judge finished runs: what they read, and the rows they write."""
import importlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multimix.data import InputError
from multimix.experiments import run_experiment
from multimix.layouts import lay_iu_xray

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    "A script of benchmarks/ as a module, by its name."
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


# the third hospital

CODES = {1: "normal", 2: "Opacity/lung;Pneumonia", 3: "Cardiomegaly", 4: "normal"}  # of each report; 3 is neither healthy nor of interest
NUMBERS = ("1001", "2001")  # of the two images of each report, the first of which is the brighter


def save_pictures(folder: Path, name: str, suffix: str, numbers) -> None:
    (folder / "images").mkdir(parents=True)
    for uid in CODES:
        for k, number in enumerate(numbers):
            pixels = Image.fromarray(np.full((40, 40), 40 * uid + 20 - 20 * k, np.uint8))
            pixels.save(folder / "images" / f"{name.format(uid=uid, number=number)}{suffix}")


def downloaded(folder: Path, numbers=NUMBERS) -> Path:
    "Open-i as `multimix download` lays it out, which knows no projection."
    save_pictures(folder, "CXR{uid}_1_IM-0001-{number}", ".png", numbers)
    (folder / "reports").mkdir()
    for uid, codes in CODES.items():
        headings = "".join(f"<major>{code}</major>" for code in codes.split(";"))
        images = "".join(f'<parentImage id="CXR{uid}_1_IM-0001-{number}"/>' for number in numbers)
        (folder / f"reports/{uid}.xml").write_text(f'<eCitation><uId id="CXR{uid}"/><MeSH>{headings}</MeSH>{images}</eCitation>')
    lay_iu_xray(folder)
    return folder


def copied(folder: Path, projections=("Frontal", "Lateral"), suffix: str = ".jpg") -> Path:
    "Open-i as copies have it that know the projections; their tables say .png whatever the files are."
    save_pictures(folder, "{uid}_IM-0001-{number}.dcm", suffix, NUMBERS)
    reports = [f"{uid},{codes},{';'.join(code.split('/')[0] for code in codes.split(';'))}" for uid, codes in CODES.items()]
    rows = [f"{uid},{uid}_IM-0001-{number}.dcm.png,{projection}" for uid in CODES for number, projection in zip(NUMBERS, projections)]
    (folder / "indiana_reports.csv").write_text("\n".join(["uid,MeSH,Problems", *reports]))
    (folder / "indiana_projections.csv").write_text("\n".join(["uid,filename,projection", *rows]))
    return folder


@pytest.mark.parametrize("lay, more", [(downloaded, {}), (copied, {}), (copied, {"suffix": ".png"})])
def test_open_i_is_read_as_downloaded_and_as_copied(script, tmp_path, lay, more):
    images, ill = script("validation_views").third_hospital(lay(tmp_path, **more), 32)
    assert images.shape == (3, 32, 32) and images.dtype == np.uint8 and ill.tolist() == [False, True, False]
    np.testing.assert_allclose(images.mean((1, 2)), [60, 100, 180], atol=2)


def test_a_known_projection_is_believed(script, tmp_path):
    images, _ = script("validation_views").third_hospital(copied(tmp_path, ("Lateral", "Frontal")), 32)
    np.testing.assert_allclose(images.mean((1, 2)), [40, 80, 160], atol=2)


@pytest.mark.parametrize("lay, more", [(downloaded, ("1002", "2001")), (copied, ("Lateral", "Lateral"))])
def test_open_i_without_frontal_images_is_named(script, tmp_path, lay, more):
    with pytest.raises(InputError, match="here: of 8 rows and 8 images, 0 are frontal with an opacity and 0 ") as error:
        script("validation_views").third_hospital(lay(tmp_path / "here", more), 32)
    assert "\n" not in str(error.value)


def test_open_i_with_one_kind_or_without_rows_is_named(script, tmp_path):
    read, folder = script("validation_views").third_hospital, downloaded(tmp_path / "here")
    (folder / "images/CXR2_1_IM-0001-1001.png").unlink()
    with pytest.raises(InputError, match="here: of 8 rows and 7 images, 0 are frontal with an opacity and 2 "):
        read(folder, 32)
    (folder / "indiana_projections.csv").write_text("uid,filename,projection\n")
    with pytest.raises(InputError, match="here: of 0 rows"):
        read(folder, 32)


# maps and boxes

BOXES = {"a": (256, 256, 512, 512), "b": (256, 256, 512, 512), "c": (0, 0, 256, 256), "d": None}  # x, y, width, height; c is b's patient


@pytest.fixture
def nih(tmp_path, monkeypatch):
    "A folder with ChestX-ray14's tables and four images of noise."
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))
    folder, rng = tmp_path / "xrays/nih", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    entries, boxes = ["Image Index,Finding Labels,Patient ID"], ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for name, box in BOXES.items():
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / f"images/{name}.png")
        entries.append(f"{name}.png,{'Pneumonia' if box else 'No Finding'},{'b' if name == 'c' else name}")
        boxes += [f"{name}.png,Pneumonia,{','.join(map(str, box))},,,"] if box else [f"{name}.png,Effusion,0,0,9,9,,,"]
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join(entries))
    (folder / "BBox_List_2017.csv").write_text("\n".join(boxes))
    return folder.parent


def test_what_maps_score_without_a_network(script, nih):
    boxes = script("boxes")
    assert boxes.boxed_images(str(nih), 32).boxes[0].tolist() == [[8, 8, 24, 24]]
    found = boxes.without_network(str(nih), 32)
    assert found["chance"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 16) / 3) and found["centre_hits"] == pytest.approx(2 / 3)
    # of b and c, a's box; of a, that of b (256 pixels) and of c (64), apart and alike: 256 of 320 lie in its own
    assert found["others_hits"] == found["others_energy"] == pytest.approx((256 / 320 + 1 + 0) / 3)
    (nih / "nih/BBox_List_2017.csv").unlink()
    with pytest.raises(InputError, match="xrays: boxes of pneumonia on 0 images"):
        boxes.boxed_images(str(nih), 48)


def test_maps_are_judged_at_boxes_a_row_each(script, nih, tmp_path, monkeypatch, capsys):
    run_experiment(out=tmp_path / "runs/one", method="enc", size=32, steps=1, labels=4, batch=2, width=4, progress=False)
    run_experiment(out=tmp_path / "runs/lungs", method="unet", size=32, steps=1, masks=4, batch=2, width=4, progress=False)
    kept = script("boxes").ATTRIBUTIONS
    monkeypatch.setattr(sys, "argv", ["boxes.py", str(tmp_path / "runs"), "--data", str(nih), "--out", str(tmp_path / "boxes.csv")])
    runpy.run_path(str(SCRIPTS / "boxes.py"), run_name="__main__")
    first = (tmp_path / "boxes.csv").read_text()
    rows = pd.read_csv(tmp_path / "boxes.csv")
    assert rows["attribution"].tolist() == list(kept) and set(rows["run"]) == {"one"} and set(rows["images"]) == {3}
    assert set(rows["method"]) == {"enc"} and set(rows["size"]) == {32} and set(rows["seed"]) == {0}
    scores = rows[[f"{which}{score}" for which in ("", "untrained_") for score in ("hits", "energy")]]
    assert scores.to_numpy().min() >= 0 and 0 < scores.to_numpy().max() <= 1
    runpy.run_path(str(SCRIPTS / "boxes.py"), run_name="__main__")
    assert (tmp_path / "boxes.csv").read_text() == first and "grad_cam" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["boxes.py", str(tmp_path / "runs/lungs"), "--data", str(nih), "--out", str(tmp_path / "none.csv")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / "boxes.py"), run_name="__main__")
    assert "lungs: holds no finished run that can be judged so" in capsys.readouterr().err and not (tmp_path / "none.csv").exists()
