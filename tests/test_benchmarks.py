"""Scripts in benchmarks/ that judge finished runs: what they read, and the rows they write."""
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multimix.data import InputError
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
