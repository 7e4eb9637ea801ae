"""Sets and the folders they come from: what the notebook does not show, above all parts that do not fit."""
import copy
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimix.cache import cache_images
from multimix.images import InputError, thumbnail
from multimix.sets import ImageSet, Rows, _by_stem, cache_masks, chain, pick, read_folders, read_mask, read_masked

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 48), dtype=np.uint8)


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


# rows that stay on disk

SOURCE = RNG.integers(0, 256, (12, 4, 5), dtype=np.uint8)
places = st.integers(-6, 5)
keys = st.one_of(
    places, st.slices(6), st.lists(places, max_size=8), st.lists(places, max_size=8).map(lambda a: np.array(a, dtype=np.int64)),
    st.lists(st.booleans(), min_size=6, max_size=6).map(np.array), st.just(...), st.none(), st.just(()),
    st.tuples(st.one_of(places, st.slices(6), st.lists(places, min_size=1, max_size=4)),
              st.one_of(st.slices(4), st.integers(0, 3), st.none())),
    st.lists(st.tuples(places, st.integers(0, 3)), min_size=1, max_size=5).map(lambda pairs: tuple(map(list, zip(*pairs)))),
    st.tuples(st.just(...), st.integers(0, 4)), st.just(SOURCE[:6] > 100),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 11), min_size=6, max_size=6), keys, st.integers(0, 12))
def test_rows_are_read_as_numpy_reads_them(index, key, cut):
    rows, plain = Rows([SOURCE[:cut], SOURCE[cut:]], index), SOURCE[index]
    assert rows.shape == plain.shape and rows.nbytes == plain.nbytes and rows.ndim == 3 and rows.dtype == np.uint8
    found = rows[key]
    assert type(found) is type(plain[key]) and np.array_equal(found, plain[key])


def test_rows_do_what_arrays_do():
    rows, plain = Rows([SOURCE], [3, 1, 1]), SOURCE[[3, 1, 1]]
    assert np.array_equal(rows / 2, plain / 2) and np.array_equal(1 - rows, 1 - plain) and ((rows > 7) == (plain > 7)).all()
    assert rows.mean() == plain.mean() == np.mean(rows) and np.array_equal(np.stack([rows, rows]), np.stack([plain, plain]))
    assert rows.astype(float).dtype == float and np.asarray(rows, dtype=np.float32).dtype == np.float32
    assert np.array_equal([row.sum() for row in rows], plain.sum((1, 2))) and "Rows" in repr(rows)
    assert np.array_equal(copy.deepcopy(rows), plain)
    for wrong in (7, [0, -9]):
        with pytest.raises(IndexError):
            rows[wrong]
    with pytest.raises(AttributeError):
        getattr(rows, "no_such_thing")  # noqa: B009


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=6), min_size=1, max_size=4),
       st.lists(st.booleans(), min_size=4, max_size=4), st.randoms())
def test_parts_of_parts_put_end_to_end(tmp_path_factory, lists, on_disk, random):
    file = tmp_path_factory.getbasetemp() / "source.npy"
    if not file.exists():
        np.save(file, SOURCE)
    mapped = np.load(file, mmap_mode="r")
    joined = chain([pick(mapped if disk else SOURCE, np.array(index)) for index, disk in zip(lists, on_disk)])
    plain = np.concatenate([SOURCE[index] for index in lists])
    some = np.array([random.randrange(len(plain)) for _ in range(5)])
    assert isinstance(joined, Rows) == any(on_disk[: len(lists)]) and np.array_equal(joined, plain)
    assert np.array_equal(pick(pick(joined, some), [4, 0]), plain[some[[4, 0]]])
    assert np.array_equal(chain([joined, joined])[len(plain):], plain)


def test_a_subset_of_what_is_on_disk_costs_no_memory(files, tmp_path):
    images = cache_images(files * 50, 128, tmp_path / "cache", progress=False)
    masks, _ = cache_masks([(file, file) for file in files * 50], 128, cache_dir=tmp_path / "cache", progress=False)
    whole = ImageSet(images, [str(i) for i in range(300)], masks=masks)
    tracemalloc.start()
    part = whole.subset(np.arange(299, 0, -1)).subset(range(200))
    assert tracemalloc.get_traced_memory()[1] < 200_000 < part.images.nbytes
    tracemalloc.stop()
    assert np.array_equal(part.images, images[299:99:-1]) and np.array_equal(part.masks, masks[299:99:-1])
    whole.subset([1]).images[0][:] = 0  # a copy: what was cached cannot be spoilt


# folders

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


def test_damaged_files_may_be_left_out_of_folders(tmp_path, files):
    files[2].write_bytes(b"junk")
    with pytest.raises(InputError, match="2.png"):
        read_folders({"a": files[0].parent}, 32, cache_dir=tmp_path / "cache", progress=False)
    with pytest.warns(UserWarning, match="2.png"):
        rest = read_folders({"a": files[0].parent}, 32, cache_dir=tmp_path / "cache", progress=False, on_error="skip")
    assert rest.names == [f"files/{i}.png" for i in (0, 1, 3, 4, 5)] and len(rest.labels) == 5
    assert np.array_equal(rest.images[2], thumbnail(files[3], 32))


# masks

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


def test_images_and_masks_are_padded_alike(pairs):
    padded, _ = load_pairs(pairs, aspect="pad", bits=8)
    assert np.array_equal(padded.images[0], thumbnail(pairs / "images/0.png", 32, aspect="pad"))
    left = thumbnail(pairs / "left/0_mask.png", 32, "mask", "pad") | thumbnail(pairs / "right/0_mask.png", 32, "mask", "pad")
    assert np.array_equal(padded.masks[0, 0], left) and not padded.images[:, :2].any() and padded.images[:, 3:-3].any((0, 2)).all()
    Image.fromarray((np.asarray(Image.open(pairs / "left/0_mask.png")) > 0).astype(np.uint8) * 3).save(pairs / "map.png")
    assert np.array_equal(read_mask([pairs / "map.png"], 32, [3], aspect="pad")[0], thumbnail(pairs / "left/0_mask.png", 32, "mask", "pad"))


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


def test_masks_in_one_folder_are_told_apart_by_suffix(pairs):
    apart, _ = load_pairs(pairs, merge=False)
    (pairs / "both").mkdir()
    for side in ("left", "right"):
        for path in (pairs / side).iterdir():
            for folder in ("both", "images"):
                (pairs / folder / path.name.replace("mask", side)).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="0.png: the name ends with none of '_Left'|no file name ends with '_Left'"):
        read_masked(pairs / "images", pairs / "both", 32, suffixes=("_Left", "_right"))
    together, bare = read_masked(pairs / "images", pairs / "images", 32, suffixes=("_left", "_right"), merge=False,
                                 cache_dir=pairs / "cache", progress=False)
    assert bare is None and together.names == [f"images/{i}.png" for i in range(3)] and np.array_equal(together.masks, apart.masks)
    for path in (pairs / "images").glob("*_*"):
        path.unlink()
    (pairs / "both" / "0_heart.png").write_bytes(b"")
    with pytest.raises(InputError, match="0_heart.png: the name ends with none of"):
        read_masked(pairs / "images", pairs / "both", 32, suffixes=("_left", "_right"))
    (pairs / "both" / "0_heart.png").unlink()
    other, _ = read_masked(pairs / "images", pairs / "both", 32, suffixes=("_left", "_right"), cache_dir=pairs / "cache", progress=False)
    assert np.array_equal(other.masks[:, 0], apart.masks.max(1))
    with pytest.raises(InputError, match="one folder"):
        load_pairs(pairs, suffixes=("_left",))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 255), min_size=2, max_size=5, unique=True), st.integers(0, 99))
def test_maps_of_labels(tmp_path_factory, values, seed):
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.choice(values, (8, 8)), np.ones((4, 4), int)).astype(np.uint8)
    table = rng.permutation(np.unique(rng.integers(0, 1 << 24, 300))[:256])
    painted = Image.fromarray(labels)
    painted.putpalette([int(colour) >> shift & 255 for colour in table for shift in (16, 8, 0)])
    painted.save(folder / "p.png")
    painted.convert("RGB").save(folder / "rgb.png")
    Image.fromarray(labels).save(folder / "l.png")
    Image.fromarray(labels.astype(np.uint16)).save(folder / "16.png")
    np.save(folder / "n.npy", labels.astype(np.int32))
    truth = np.stack([labels == value for value in values])
    for name in ("p.png", "l.png", "16.png", "n.npy"):
        assert np.array_equal(read_mask([folder / name], 32, values), truth)
    colours = [f"#{table[value]:06x}" for value in values]
    for name in ("p.png", "rgb.png"):
        assert np.array_equal(read_mask([folder / name], 32, colours), truth)
    assert np.array_equal(read_mask([folder / "l.png"], 32, [tuple(values[:2]), values[-1]]), [truth[:2].any(0), truth[-1]])
    assert np.array_equal(read_mask([folder / "l.png"], 32, values[:2], merge=True)[0], truth[:2].any(0))


def test_maps_that_cannot_be(tmp_path):
    Image.fromarray(np.kron([[0, 7], [9, 0]], np.ones((8, 8))).astype(np.uint8)).save(tmp_path / "m.png")
    Image.new("L", (16, 16)).save(tmp_path / "empty.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "rgb.png")
    (tmp_path / "junk.png").write_bytes(b"junk")
    np.save(tmp_path / "half.npy", np.full((16, 16), 0.5))
    assert not read_mask([tmp_path / "empty.png"], 32, [1, 2]).any()
    for file, values, match in [("m.png", [1, 2], "m.png: holds 0, 7, 9, none of"), ("m.png", ["#010203"], "holds #000000, #070707"),
                                ("rgb.png", [1], "rgb.png: has colours"), ("half.npy", [0], "half.npy: cannot be read"),
                                ("junk.png", [1], "junk.png: cannot be read"),
                                ("m.png", ["red"], "values="), ("m.png", [None], "values="), ("m.png", [1, "#010203"], "values=")]:
        with pytest.raises(InputError, match=match) as error:
            read_mask([tmp_path / file], 32, values)
        one_line(error)


def test_damaged_masks_may_be_left_out(pairs):
    (pairs / "left/1_mask.png").write_bytes(b"junk")
    (pairs / "images/2.png").write_bytes(b"junk")
    Image.fromarray(GREY).save(pairs / "images/3.png")
    with pytest.raises(InputError, match="2 of 3 files cannot be used: .*1_mask.png, .*2_mask.png"):
        load_pairs(pairs, ("left",))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        masked, bare = load_pairs(pairs, ("left",), on_error="skip")
    assert masked.names == ["images/0.png"] and bare.names == ["images/3.png"] and len(said) == 2
    assert np.array_equal(masked.masks[0, 0], thumbnail(pairs / "left/0_mask.png", 32, "mask"))
    assert np.array_equal(bare.images[0], thumbnail(pairs / "images/3.png", 32))


def test_files_called_by_a_number_with_dots_are_paired_with_their_masks():
    numbers = ["1.2.840.113.1", "1.2.840.113.2"]
    assert list(_by_stem([Path(n) for n in numbers])) == list(_by_stem([Path(f"{n}.png") for n in numbers])) == numbers


def test_a_mask_beside_its_image_is_named_as_one(tmp_path):
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(GREY).save(tmp_path / name)
    with pytest.raises(InputError, match=r"a_mask.png: has the same name as a.png; if it is a mask, say suffixes=\('_mask',\)"):
        read_masked(tmp_path, tmp_path, 32)


@pytest.mark.parametrize("name, kind", [("a.jfif", "jpeg"), ("a.JPE", "jpeg"), ("a", "png"), ("a", "jpeg")])
def test_images_with_rare_suffixes_or_none_are_read(tmp_path, name, kind):
    with open(tmp_path / name, "wb") as file:
        Image.fromarray(GREY).save(file, kind)
    (tmp_path / "notes").write_text("no image")
    assert read_folders({"n": tmp_path}, 32).names == [f"{tmp_path.name}/{name}"]
