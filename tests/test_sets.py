"""Sets and the folders they come from: what the notebook does not show, above all parts that do not fit."""
import numpy as np
import pytest
from PIL import Image

from multimix.images import InputError, list_images, thumbnail
from multimix.sets import ImageSet, read_folders, read_masked

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 48), dtype=np.uint8)


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(RNG.integers(0, 256, (40, 48), dtype=np.uint8)).save(folder / f"{i}.png")
    return list_images(folder)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and message.strip()
    return message


def test_a_set_whose_parts_do_not_fit_is_refused():
    pixels = np.zeros((3, 8, 8), np.uint8)
    good = ImageSet(pixels, ["a", "b", "c"], labels=[0, 1, -1], classes=["x", "y"])
    assert good.labels.dtype == np.int64 and good.counts() == {"x": 1, "y": 1}
    wrong = [dict(images=pixels[0]), dict(images=pixels / 2), dict(names=["a"]), dict(masks=pixels),
             dict(labels=[0, 1]), dict(labels=[0, 1, 2]), dict(labels=[0, 1, -2]),
             dict(masks=np.zeros((3, 1, 4, 4), np.uint8)), dict(patients=["p"]), dict(boxes=[])]
    for part in wrong:
        with pytest.raises(InputError, match=next(iter(part))) as error:
            ImageSet(**{"images": pixels, "names": ["a", "b", "c"], "classes": ("x", "y"), **part})
        one_line(error)


def test_a_subset_carries_everything_along():
    n = 5
    whole = ImageSet(np.arange(n, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8), list("abcde"), np.array([0, 1, 0, 1, 1]),
                     (np.arange(n) % 2).astype(np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 2), np.uint8), list("vwxyz"),
                     [np.full((k, 4), k, np.float32) for k in range(n)], ("x", "y"))
    for indices in ([4, 0], np.array([4, 0])):
        part = whole.subset(indices)
        assert part.names == ["e", "a"] and part.images[0, 0, 0] == 4 and list(part.labels) == [1, 0] and list(part.patients) == ["z", "v"]
        assert part.masks[:, 0, 0, 0].tolist() == [0, 0] and [len(b) for b in part.boxes] == [4, 0]
    assert whole.subset(np.array([True, False, True, False, False])).names == ["a", "c"]
    assert len(whole.subset([])) == 0


def test_class_folders(tmp_path, files):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="other"):
        read_folders({"a": files[0].parent, "b": other}, 32, cache_dir=tmp_path / "cache", progress=False)
    Image.fromarray(GREY).save(other / "x.JPG")
    both = read_folders({"b": other, "a": files[0].parent}, 32, cache_dir=tmp_path / "cache", progress=False)
    assert both.classes == ("b", "a") and both.counts() == {"b": 1, "a": 6} and both.names[0] == "other/x.JPG"
    with pytest.raises(InputError, match="size=50"):
        read_folders({"a": files[0].parent}, 50)


@pytest.fixture
def pairs(tmp_path):
    for side in ("images", "left", "right"):
        (tmp_path / side).mkdir()
    for i in range(3):
        Image.fromarray(GREY).save(tmp_path / f"images/{i}.png")
        for k, side in enumerate(("left", "right")):
            mask = np.zeros((40, 48), np.uint8)
            mask[10:30, 4 + 16 * k:28 + 16 * k] = 255  # they overlap in columns 20 to 27
            Image.fromarray(mask).save(tmp_path / f"{side}/{i}_mask.png")
    return tmp_path


def load_pairs(folder, sides=("left", "right"), **options):
    return read_masked(folder / "images", [folder / side for side in sides], 32, cache_dir=folder / "cache", progress=False, **options)


def test_masks_of_two_structures_merge_by_union(pairs):
    merged, bare = load_pairs(pairs)
    apart, _ = load_pairs(pairs, merge=False)
    assert bare is None and merged.masks.shape == (3, 1, 32, 32) and apart.masks.shape == (3, 2, 32, 32)
    assert (apart.masks.sum(1) == 2).any() and merged.masks.max() == 1
    assert np.array_equal(merged.masks[:, 0], apart.masks.max(1))


def test_images_without_a_mask_come_apart(pairs):
    Image.fromarray(255 - GREY).save(pairs / "images" / "0more.png")
    masked, bare = load_pairs(pairs, ("left",))
    assert len(masked) == 3 and bare.names == ["images/0more.png"] and bare.masks is None
    assert np.array_equal(bare.images[0], thumbnail(pairs / "images/0more.png", 32))
    assert np.array_equal(masked.images[0], thumbnail(pairs / "images/0.png", 32))


@pytest.mark.parametrize("fault, named", [
    (lambda d: (d / "images/1.png").unlink(), "left/1_mask.png"),
    (lambda d: Image.new("L", (48, 41)).save(d / "right/1_mask.png"), "right/1_mask.png.*images/1.png"),
    (lambda d: (d / "right/2_mask.png").unlink(), "images/2.png"),
    (lambda d: (d / "left/1_mask.png").write_bytes(b"junk"), "left/1_mask.png"),
    (lambda d: Image.fromarray(GREY).save(d / "images/1.jpg"), "images/1.png"),
    (lambda d: [f.unlink() for f in (d / "right").iterdir()], "right: holds no image"),
])
def test_faulty_pairs_are_named(pairs, fault, named):
    fault(pairs)
    with pytest.raises(InputError, match=named.replace("/", r"[\\/]")) as error:
        load_pairs(pairs)
    one_line(error)
