"""Weak and strong views: each operation against PIL, chains against one operation after the other, masks, draws, bad input."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimix.augmentation import View, clean_view, strong_view, weak_view
from multimix.images import InputError
from multimix.operations import GEOMETRIC, OPS, TABLES, affine, bilinear, fixed_point, magnitude, nearest, operate, positions
from multimix.plain import pil_operation

STRENGTHS = torch.arange(1, 11)
STILL = dict(flip=0.0, pad=0.0)  # no weak geometry


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(height=64, width=64):
    "Four kinds of image: all levels, a few dark ones, one level only, smooth with grain; (4, 1, H, W) uint8."
    rng = np.random.default_rng(height * 1000 + width)
    smooth = np.add.outer(3 * np.arange(height), 2 * np.arange(width)) + rng.integers(0, 9, (height, width))
    noise, dark = rng.integers(0, 256, (height, width)), rng.integers(30, 60, (height, width))
    return torch.from_numpy(np.stack([noise, dark, np.full_like(dark, 77), smooth.clip(0, 255)]).astype(np.uint8))[:, None]


def levels(view):
    return (view.images * 255).round().to(torch.uint8)


def by_pil(name, image, amount):
    "The PIL original on one image, 2-D uint8."
    return np.asarray(pil_operation(name, Image.fromarray(np.asarray(image)), amount))


def same(ours, theirs, name):
    """Equal where PIL counts in whole numbers; single-precision blends may be fused on other processors: one level.

    Moves: another Pillow may round a few positions on the border of two pixels differently."""
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    if name in ("Contrast", "Sharpness"):
        return difference.max() <= 1 and (difference > 0).mean() < 0.05
    return (difference > 0).mean() < 0.01 if name in GEOMETRIC else difference.max() == 0


# --- operations --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [(64, 64), (64, 48), (33, 57), (5, 7), (2, 2)])
@pytest.mark.parametrize("name", OPS)
def test_each_operation_is_pils(name, size):
    for image in pictures(*size):
        for sign in (1, -1) if name in GEOMETRIC else (1,):
            amount = sign * magnitude(name, STRENGTHS)
            ours = operate(name, image.expand(10, 1, *size), amount)
            assert ours.dtype == torch.uint8
            for a, result in zip(amount.tolist(), ours[:, 0].numpy()):
                assert same(result, by_pil(name, image[0], a), name), (name, a)


def test_autocontrast_is_pils_for_every_span():
    spans = torch.arange(256)
    for low in (0, 7, 100):
        ramps = torch.minimum(torch.arange(256)[None], low + spans[: 256 - low, None]).clamp(min=low).byte().view(-1, 1, 16, 16)
        ours = operate("AutoContrast", ramps, torch.zeros(len(ramps)))
        assert all(np.array_equal(o[0], by_pil("AutoContrast", r[0], 0)) for o, r in zip(ours, ramps))


def test_tables_of_grey_levels_never_leave_the_range():
    for name in TABLES:
        assert operate(name, pictures(), torch.full((4,), float(magnitude(name, STRENGTHS)[-1]))).max() <= 255
    assert operate("Brightness", torch.full((1, 1, 2, 2), 200, dtype=torch.uint8), torch.tensor([3.0])).unique().tolist() == [255]


def test_magnitudes_are_the_published_ones():
    v = torch.tensor([1, 9])
    expected = dict(Brightness=(0.14, 0.86), Contrast=(0.14, 0.86), Sharpness=(0.14, 0.86), Posterize=(4, 7), Rotate=(3, 27),
                    ShearX=(0.03, 0.27), ShearY=(0.03, 0.27), TranslateX=(0.03, 0.27), TranslateY=(0.03, 0.27), Solarize=(25, 230))
    for name, ends in expected.items():
        assert magnitude(name, v).tolist() == pytest.approx(ends), name
    assert len(OPS) == 13 and set(OPS) - set(expected) == {"AutoContrast", "Equalize", "Identity"}


def test_unknown_operations_are_named():
    with pytest.raises(InputError, match="'Blur'"):
        magnitude("Blur", STRENGTHS)
    with pytest.raises(InputError, match="'Blur'"):
        operate("Blur", pictures(), torch.zeros(4))


@pytest.mark.parametrize("name,amount", [("Rotate", 20.0), ("Rotate", -9.0), ("ShearX", 0.21), ("ShearY", -0.12)])
def test_bilinear_reading_is_pils_within_a_level(name, amount):
    image = pictures()[3:]
    x, y, inside = positions(fixed_point(affine(name, torch.tensor([amount]), 64, 64))[:, None], 64, 64)
    ours = (bilinear(image, x, y) * inside[:, None])[0, 0].numpy()
    picture = Image.fromarray(image[0, 0].numpy())
    a = {"ShearX": (1, amount, 0, 0, 1, 0), "ShearY": (1, 0, 0, amount, 1, 0)}
    how = Image.Resampling.BILINEAR
    theirs = picture.rotate(amount, how) if name == "Rotate" else picture.transform((64, 64), Image.Transform.AFFINE, a[name], how)
    off = np.abs(ours.astype(int) - np.asarray(theirs).astype(int)) > 1
    # at the very edge of the frame, PIL's floating point may decide otherwise
    inner = ((x > 1 << 16) & (x < 63 << 16) & (y > 1 << 16) & (y < 63 << 16))[0].numpy()
    assert inner.mean() > 0.5 and off[inner].sum() == 0 and off.mean() < 0.01


def test_bilinear_at_pixel_centres_reads_the_pixels():
    image = pictures(9, 12)
    x, y, _ = positions(fixed_point(torch.eye(3).double().repeat(4, 1, 1, 1)), 9, 12)
    assert torch.equal(bilinear(image, x, y), image) and torch.equal(nearest(image, x, y), image)


# --- chains ------------------------------------------------------------------------------------------------------------------------

def replay(images, seed, n, ops, p=1.0, m=10):
    "The draws of a strong view without weak geometry and Cutout, carried out one after the other; and the names drawn for each image."
    u = torch.rand(len(images), 6 + 4 * n, dtype=torch.float64, generator=seeded(seed))
    done, drawn = [], []
    for image, row in zip(images, u):
        names = []
        for which, strength, applied, sign in row[6:].view(n, 4).tolist():
            name, v = ops[int(which * len(ops))], int(strength * (m - 1)) + 1
            if applied < p:
                amount = magnitude(name, torch.tensor([v])) * (-1 if sign < 0.5 and name in GEOMETRIC else 1)
                image = operate(name, image[None] if image.ndim == 3 else image, amount)[0]
                names.append(name)
        done.append(image)
        drawn.append(names)
    return torch.stack(done), drawn


@pytest.mark.parametrize("n,p", [(1, 1.0), (2, 1.0), (2, 0.5), (3, 1.0), (4, 0.8)])
def test_a_strong_view_is_its_operations_one_after_the_other(n, p):
    images = pictures(32, 40).repeat(60, 1, 1, 1)
    ours = levels(strong_view(images, generator=seeded(n), n=n, p=p, cutout=0, **STILL))
    theirs, drawn = replay(images, n, n, OPS, p)
    chains = [[name for name in chain if name != "Identity"] for chain in drawn]  # moves around an Identity are in a row, too
    exact = torch.tensor([not any(a in GEOMETRIC and b in GEOMETRIC for a, b in zip(chain, chain[1:])) for chain in chains])
    assert exact.sum() > 60
    assert torch.equal(ours[exact], theirs[exact])


@pytest.mark.parametrize("n", [2, 3, 4])
def test_tables_in_a_row_are_joined_exactly(n):
    images, ops = pictures(20, 24).repeat(50, 1, 1, 1), tuple(TABLES)
    ours = levels(strong_view(images, generator=seeded(n), n=n, ops=ops, cutout=0, **STILL))
    assert torch.equal(ours, replay(images, n, n, ops)[0])


def test_moves_in_a_row_are_read_once():
    "On a horizontal ramp, a position read twice is off by up to a pixel each time; read once, it is off by half a pixel at most."
    ramp = (3 * torch.arange(64)).byte().expand(200, 1, 64, 64)
    ours = levels(strong_view(ramp, generator=seeded(), n=2, ops=("Rotate", "ShearX", "ShearY"), cutout=0, **STILL))
    theirs, drawn = replay(ramp, 0, 2, ("Rotate", "ShearX", "ShearY"))
    both = (ours > 0) & (theirs > 0)
    assert both.float().mean() > 0.5
    difference = (ours.int() - theirs.int()).abs()[both]
    assert 0 < difference.max() <= 2 * 3  # two pixels of three levels
    maps = [affine(name, torch.tensor([0.2]), 64, 64) for name in ("ShearX", "ShearY")]
    x, y, inside = positions(fixed_point(torch.stack([maps[0] @ maps[1], maps[1]], 1)), 64, 64)
    rows, cols = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    exact = cols + 0.2 * (rows + 0.2 * cols)
    assert ((x[0] / 65536 - exact).abs()[inside[0]] < 1e-3).all()


def test_what_leaves_the_frame_stays_away():
    white = torch.full((1, 1, 64, 64), 255, dtype=torch.uint8)
    there, back = (affine("TranslateX", torch.tensor([a]), 64, 64) for a in (0.25, -0.25))
    x, y, inside = positions(fixed_point(torch.stack([there @ back, back], 1)), 64, 64)
    result = nearest(white, x, y) * inside[:, None]
    stepwise = operate("TranslateX", operate("TranslateX", white, torch.tensor([0.25])), torch.tensor([-0.25]))
    assert torch.equal(result, stepwise)
    assert result[..., :16].sum() == 0 and (result[..., 16:] == 255).all()


def test_moves_too_small_to_move():
    "A shift of less than a pixel is none; the images must come through whole."
    images = pictures(8, 8)
    view = strong_view(images, images, generator=seeded(), n=3, m=2, ops=("TranslateX", "TranslateY"), cutout=0, **STILL)
    assert torch.equal(levels(view), images) and torch.equal(view.masks, images.float())


# --- views -------------------------------------------------------------------------------------------------------------------------

def test_clean_views():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    view = clean_view(images, images > 9)
    assert isinstance(view, View) and torch.equal(view.images, images.float() / 255)
    assert view.masks.dtype == torch.float32 and torch.equal(view.masks.bool(), images > 9)
    assert clean_view(images).masks is None
    half = clean_view((images / 255).half()).images
    assert half.dtype == torch.float32


def test_nothing_asked_is_nothing_done():
    images = pictures(24, 20)
    clean = clean_view(images).images
    assert torch.equal(weak_view(images, generator=seeded(), flip=0, pad=0).images, clean)
    for nothing in (dict(p=0.0), dict(n=0), dict(ops=("Identity",))):
        assert torch.equal(strong_view(images, generator=seeded(), cutout=0, **STILL, **nothing).images, clean), nothing
    assert torch.equal(strong_view(images / 255, generator=seeded(), cutout=0, p=0, **STILL).images, clean)


def test_weak_views_are_reflected_crops_and_mirrors():
    "Every view is found among the crops of the padded image and of its mirror image, and all of these come up."
    image = pictures(10, 8)[:1]
    padded = np.pad(image[0, 0].numpy(), ((2, 2), (2, 2)), mode="reflect")  # 0.25 of 10 and of 8, in whole pixels: 2
    mirror = np.pad(image[0, 0].numpy()[:, ::-1], ((2, 2), (2, 2)), mode="reflect")
    crops = {p[i:i + 10, j:j + 8].tobytes() for p in (padded, mirror) for i in range(5) for j in range(5)}
    views = levels(weak_view(image.expand(1000, -1, -1, -1), generator=seeded(), pad=0.25))
    assert {view[0].numpy().tobytes() for view in views} == crops


def test_half_the_views_are_mirrored():
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(2000, -1, -1, -1)
    for flip in (0.0, 0.5, 0.8, 1.0):
        views = levels(weak_view(image, generator=seeded(), flip=flip, pad=0))
        mirrored = (views == image.flip(-1)).flatten(1).all(1)
        assert ((views == image).flatten(1).all(1) ^ mirrored).all()
        assert mirrored.float().mean().item() == pytest.approx(flip, abs=0.05)


def test_weak_floats_keep_all_their_values():
    images = torch.rand(3, 1, 8, 8, generator=seeded(1))
    views = weak_view(images, generator=seeded()).images
    assert torch.isin(views, images).all()


def test_shifts_are_uniform_in_whole_pixels():
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 1, 16).expand(5000, 1, 16, 16)
    left = levels(weak_view(image, generator=seeded(), flip=0, pad=0.125))[:, 0, 0, 4].int() - 4
    counts = torch.bincount(left + 2, minlength=5) / 5000
    assert len(counts) == 5 and (counts - 0.2).abs().max() < 0.02


@pytest.mark.parametrize("view", [weak_view, strong_view])
@pytest.mark.parametrize("channels", [1, 2])
def test_masks_move_with_their_images(view, channels):
    "An image that is its own mask must come out as it; with operations that only move, and no Cutout."
    masks = (torch.rand(40, 1, 24, 32, generator=seeded()) > 0.5).float()
    images = (masks * 255).byte()
    moves = dict(ops=(*GEOMETRIC, "Identity"), n=3, cutout=0) if view is strong_view else {}
    out = view(images, masks.expand(-1, channels, -1, -1), generator=seeded(1), **moves)
    assert out.masks.shape == (40, channels, 24, 32) and out.masks.dtype == torch.float32
    assert torch.equal(out.masks, out.images.expand(-1, channels, -1, -1))
    assert not torch.equal(out.images, clean_view(images).images)


def test_masks_take_the_moves_only():
    "The masks of a full strong view are those of its moves: grey levels, sharpness and Cutout leave them alone."
    images, masks = pictures().repeat(20, 1, 1, 1), (pictures().repeat(20, 1, 1, 1) > 40).float()
    view = strong_view(images, masks, generator=seeded(2), ops=(*TABLES, "Sharpness", "Identity"), **STILL)
    assert torch.equal(view.masks, masks)
    full = strong_view(images, masks, generator=seeded(2))
    assert torch.equal(full.masks, strong_view(images, masks, generator=seeded(2), cutout=0).masks)
    assert set(full.masks.unique().tolist()) == {0.0, 1.0}


def test_masks_stay_crisp_under_bilinear_reading():
    masks = (pictures() > 100).float()
    view = strong_view(pictures(), masks, generator=seeded(), ops=("Rotate",), resample="bilinear")
    assert set(view.masks.unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(view.images, strong_view(pictures(), masks, generator=seeded(), ops=("Rotate",)).images)


def test_cutout_is_one_grey_square():
    white = torch.full((500, 1, 32, 24), 255, dtype=torch.uint8)
    grey = levels(strong_view(white, generator=seeded(), n=0, cutout=0.5, **STILL))[:, 0] == 127
    sides = []
    for square in grey:
        rows, cols = square.any(1).nonzero()[:, 0], square.any(0).nonzero()[:, 0]
        assert square.sum() == len(rows) * len(cols)  # a filled rectangle: a square, cut by the frame
        if len(rows):
            assert rows[-1] - rows[0] + 1 == len(rows) and cols[-1] - cols[0] + 1 == len(cols)
        sides.append(max(len(rows), len(cols)))
    assert max(sides) == 12 and min(sides) == 0  # half of the shorter side, 24
    assert np.bincount(sides, minlength=13).min() > 10
    assert (grey.float().mean(0) > 0.005).all()  # it reaches every place


# --- draws -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("view", [weak_view, strong_view])
def test_the_generator_decides_all(view):
    images, masks = pictures(), (pictures() > 50).float()
    first, again, other = (view(images, masks, generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(first.images, again.images) and torch.equal(first.masks, again.masks)
    assert not torch.equal(first.images, other.images)
    generator = seeded(5)
    one, two = view(images, generator=generator), view(images, generator=generator)
    assert torch.equal(one.images, first.images) and not torch.equal(one.images, two.images)


@pytest.mark.parametrize("view", [weak_view, strong_view])
def test_global_state_is_left_alone(view):
    torch.manual_seed(3)
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = view(pictures()), view(pictures())
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(np.random.get_state()[1], state)
    assert not torch.equal(one.images, two.images)  # without a generator, draws are fresh


@pytest.mark.parametrize("view", [clean_view, weak_view, strong_view])
@pytest.mark.parametrize("floats", [False, True])
def test_inputs_are_left_alone(view, floats):
    images, masks = pictures(), (pictures() > 50).float()
    images = images / 255 if floats else images
    kept, kept_masks = images.clone(), masks.clone()
    out = view(images, masks)
    out.images.zero_(), out.masks.zero_()
    assert torch.equal(images, kept) and torch.equal(masks, kept_masks)


def test_images_of_a_batch_are_drawn_each_for_itself():
    images = pictures()[3:].expand(50, -1, -1, -1)
    assert len(torch.unique(levels(strong_view(images, generator=seeded())), dim=0)) > 45


def test_an_operation_named_twice_is_drawn_twice_as_often():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(3000, -1, -1, -1)
    views = levels(strong_view(images, generator=seeded(), n=1, ops=("Identity", "Solarize", "Solarize"), cutout=0, **STILL))
    untouched = (views == images).flatten(1).all(1).float().mean().item()
    assert untouched == pytest.approx(1 / 3, abs=0.03)


def test_strengths_are_one_to_m_minus_one():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2000, -1, -1, -1)
    for m in (2, 10, 11):
        views = levels(strong_view(images, generator=seeded(), n=1, m=m, ops=("Solarize",), cutout=0, **STILL))
        inverted = (views != images).flatten(1).sum(1)
        expected = {int(a) for a in magnitude("Solarize", torch.arange(1, m))}
        assert set(inverted.tolist()) == expected


# --- the released settings (erratum E13) -------------------------------------------------------------------------------------------

RELEASED = dict(pad=4 / 256, p=0.5, cutout=0.0)


def test_one_released_strong_view_in_four_has_no_operation():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(4000, -1, -1, -1)
    settings = dict(ops=("Solarize", "Posterize"), cutout=0, **STILL)  # both show on an image of all levels
    for p, share in ((RELEASED["p"], 0.25), (1.0, 0.0)):
        views = levels(strong_view(images, generator=seeded(), p=p, **settings))
        assert (views == images).flatten(1).all(1).float().mean().item() == pytest.approx(share, abs=0.03)


def test_the_released_strong_crop_moves_less_than_the_weak_one():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(300, 1, 2, 256)
    weak = levels(weak_view(image, generator=seeded(), flip=0))
    strong = levels(strong_view(image, generator=seeded(), flip=0, n=0, **{k: RELEASED[k] for k in ("pad", "cutout")}))
    farthest = [(views[:, 0, 0, 128].int() - 128).abs().max().item() for views in (weak, strong)]
    assert farthest == [32, 4]


# --- bad input ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("view", [clean_view, weak_view, strong_view])
@pytest.mark.parametrize("images,message", [
    (torch.zeros(4, 8, 8), "images.*shape"), (torch.zeros(4, 3, 8, 8), "images.*shape"), (np.zeros((4, 1, 8, 8)), "images.*ndarray"),
    (torch.zeros(4, 1, 8, 8).int(), "images.*int32"), (torch.full((4, 1, 8, 8), 1.5), r"images.*\[0, 1\]"),
    (torch.full((4, 1, 8, 8), float("nan")), r"images.*\[0, 1\]"), (-torch.ones(4, 1, 8, 8), r"images.*\[0, 1\]"),
])
def test_bad_images_are_named(view, images, message):
    with pytest.raises(InputError, match=message):
        view(images)


@pytest.mark.parametrize("view", [clean_view, weak_view, strong_view])
@pytest.mark.parametrize("masks", [torch.zeros(3, 1, 8, 8), torch.zeros(4, 8, 8), torch.zeros(4, 1, 8, 9), np.zeros((4, 1, 8, 8))])
def test_bad_masks_are_named(view, masks):
    with pytest.raises(InputError, match="masks"):
        view(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), masks)


@pytest.mark.parametrize("setting", [
    dict(flip=-0.1), dict(flip=2), dict(pad=1), dict(pad=-1), dict(pad=float("nan")), dict(p=1.1), dict(cutout=3), dict(n=-1), dict(m=1),
    dict(m=12), dict(ops=()), dict(ops=("Rotate", "Blur")), dict(resample="cubic"),
])
def test_bad_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))) as caught:
        strong_view(pictures(), generator=seeded(), **setting)
    assert "\n" not in str(caught.value)


# --- properties --------------------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None, derandomize=True)
@given(n_images=st.integers(0, 5), height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 3), floats=st.booleans(),
       seed=st.integers(0, 2**31), n=st.integers(0, 4), m=st.integers(2, 11), pad=st.floats(0, 0.99), p=st.floats(0, 1),
       cutout=st.floats(0, 1), flip=st.floats(0, 1), resample=st.sampled_from(["nearest", "bilinear"]))
def test_any_view_is_well_formed(n_images, height, width, channels, floats, seed, n, m, pad, p, cutout, flip, resample):
    images = torch.randint(0, 256, (n_images, 1, height, width), generator=seeded(seed), dtype=torch.uint8)
    masks = (torch.rand(n_images, channels, height, width, generator=seeded(seed)) > 0.5)
    images = images / 255 if floats else images
    strong = strong_view(images, masks, generator=seeded(seed), flip=flip, pad=pad, n=n, m=m, p=p, cutout=cutout, resample=resample)
    for view in (weak_view(images, masks, generator=seeded(seed), flip=flip, pad=pad), strong):
        assert view.images.dtype == view.masks.dtype == torch.float32
        assert view.images.shape == images.shape and view.masks.shape == masks.shape
        assert ((view.images >= 0) & (view.images <= 1)).all() and ((view.masks == 0) | (view.masks == 1)).all()
        assert torch.allclose((view.images * 255).round(), view.images * 255, atol=1e-3)  # whole grey levels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resample", ["nearest", "bilinear"])
def test_a_gpu_gives_the_same_views(resample):
    images, masks = pictures().repeat(30, 1, 1, 1), (pictures().repeat(30, 1, 1, 1) > 50).float()
    here = strong_view(images, masks, generator=seeded(), n=3, resample=resample)
    there = strong_view(images.cuda(), masks.cuda(), generator=seeded(), n=3, resample=resample)
    assert there.images.is_cuda and torch.equal(there.masks.cpu(), here.masks)
    assert (there.images.cpu() - here.images).abs().max() <= (0 if resample == "nearest" else 1 / 255 + 1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("view", [weak_view, strong_view])
def test_nobody_waits_for_the_gpu(view):
    images, masks = pictures().cuda(), (pictures() > 50).float().cuda()
    view(images, masks, generator=seeded())
    torch.cuda.set_sync_debug_mode("error")
    try:
        for seed in range(10):
            view(images, masks, generator=seeded(seed))
    finally:
        torch.cuda.set_sync_debug_mode("default")
