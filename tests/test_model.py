"""The model against the published algorithm, and its promises about modes, gradients, sizes and bad input."""
import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Published, reference_loss, reference_step
from torch import nn

from multimix.data import InputError
from multimix.model import Block, MultiMix, Outputs, dropout_bytes, encode_with_saliency, input_gradient, instance_norm, make_bridge


def images(n=2, height=64, width=None, channels=1, seed=0, dtype=torch.float32):
    "Smooth blobs under a little noise, in [0, 1]."
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 6, 6, generator=g)
    x = F.interpolate(coarse, (height, width or height), mode='bicubic').clamp(0, 1)
    return (.8 * x + .2 * torch.rand(x.shape, generator=g)).to(dtype)


@pytest.fixture
def model():
    return MultiMix(seed=0)


def counting_encoder(model, monkeypatch):
    calls = []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, 'forward', lambda x, dropout: calls.append(dropout) or forward(x, dropout))
    return calls


# --- the published algorithm ---------------------------------------------------------------------------------------------------

def both(dtype, size, seed):
    "Our answer and the published one (logits, masks, saliency) to the same images with the same weights."
    published = Published(seed=seed).to(dtype).eval()
    ours = MultiMix.from_released(published.state_dict()).to(dtype).eval()
    x = images(2 if size == 64 else 1, size, dtype=dtype)
    masks, logits, saliency = published(x)
    assert saliency.mean() > 1e-4 and masks.std() > .01   # there is something to compare
    return ours(x), Outputs(logits, masks, saliency)


@pytest.mark.parametrize('size', [64, 256])
def test_agrees_with_the_published_forward(size):
    for a, b in zip(*both(torch.float64, size, seed=1)):
        assert torch.allclose(a, b, atol=1e-10, rtol=0)


@pytest.mark.parametrize('size, seed', [(64, 1), (64, 2), (64, 3), (256, 1)])
def test_agrees_with_the_published_forward_in_float32(size, seed):
    ours, published = both(torch.float32, size, seed)
    assert torch.allclose(ours.logits, published.logits, atol=1e-5, rtol=0)
    assert (ours.masks - published.masks).abs().max() < 1e-5 * max(1, published.masks.abs().max())
    # the slope jumps where a unit sits on a kink (leaky ReLU, max-pool): rounding may put single pixels on the other side
    assert ((ours.saliency - published.saliency).abs() < 1e-5).float().mean() > .999


def test_agrees_with_the_published_gradients():
    published = Published(seed=1).double().eval()
    ours = MultiMix.from_released(published.state_dict()).double().eval()
    x = images(2, 64, dtype=torch.float64)
    masks, logits, _ = published(x)
    (masks.square().mean() + logits.square().mean()).backward()
    out = ours(x)
    (out.masks.square().mean() + out.logits.square().mean()).backward()
    assert torch.allclose(ours.encoder.blocks[0].conv1.weight.grad, published.encoder.dconv_down1[0].weight.grad, atol=1e-12)
    assert torch.allclose(ours.decoder.blocks[0].conv1.weight.grad, published.decoder.dconv_up4[0].weight.grad, atol=1e-12)


def test_parameter_count(model):
    def count(m): return sum(p.numel() for p in m.parameters())
    assert count(model) == 1_965_155
    assert count(Published()) == 1_965_173 == count(model) + 18
    assert count(model.encoder) == 1_178_994
    assert len(model.state_dict()) == len(list(model.parameters()))   # no buffers: instance norm remembers nothing


def test_the_released_loss_of_one_step_by_hand():
    "Two images a batch and numbers that can be done on paper."
    zeros = torch.zeros(2, 1, 4, 4)
    truth = torch.cat([torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)])
    sure = torch.tensor([[0., 5.], [0., .1]])   # the second is below the threshold of 0.7
    loss = reference_loss(zeros, truth, 3 + zeros, torch.zeros(2, 2), torch.tensor([0, 1]), sure, torch.zeros(2, 2))
    log2 = torch.tensor(2.).log()
    assert torch.allclose(loss['ce'], log2)
    assert torch.allclose(loss['unsupervised'], log2 / 2)
    assert torch.allclose(loss['dice'], torch.tensor((1 - 17 / 25 + 1 - 1 / 9) / 2))
    assert loss['kl'] == 0   # erratum E4
    assert torch.allclose(loss['total'], loss['ce'] + 5 * loss['dice'] + .25 * loss['unsupervised'])


def test_the_released_step_trains_and_its_kl_is_dead():
    published = Published(seed=2).eval()
    x = images(10, 32)
    loss = reference_step(published, x[:2], (x[:2] > .5).float(), x[2:4], x[4:6], torch.tensor([0, 1]), x[6:8], x[8:])
    assert loss['kl'] == 0 and loss['total'] > 0
    loss['total'].backward()
    grads = {name: p.grad for name, p in published.named_parameters()}
    assert all(g is not None for name, g in grads.items() if 'conv_last_saliency' not in name)
    assert grads['decoder.conv_last_saliency.weight'] is None


# --- checkpoints ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('wrap', [
    lambda s: s,
    lambda s: {'state_dict': s, 'epoch': 3},
    lambda s: {'model_state_dict': {f'module.{k}': v for k, v in s.items()}},
    lambda s: {k: v for k, v in s.items() if 'conv_last_saliency' not in k},
    lambda s: {k: v.double() for k, v in s.items()},
])
def test_from_released_reads_files_and_mappings(tmp_path, wrap):
    state = wrap(Published(seed=3).state_dict())
    torch.save(state, tmp_path / 'released.pth')
    one, two = MultiMix.from_released(state), MultiMix.from_released(str(tmp_path / 'released.pth'), dropout=0., saliency_scale='max')
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters()):
        assert torch.equal(a, b) and a.dtype == torch.float32, name
    assert one.training and two.dropout == 0 and two.saliency_scale == 'max'
    assert torch.equal(one.encoder.head.weight, Published(seed=3).encoder.fc.weight)


@pytest.mark.parametrize('options', [dict(num_classes=5, mask_channels=2, width=4), dict(in_channels=3, width=2),
                                     dict(bridge=False, width=3), dict(in_channels=2, bridge=False, width=1)])
def test_from_released_infers_the_sizes(options):
    from multimix.model import released_names
    model = MultiMix(**options, seed=0)
    theirs = {ours: name for name, ours in released_names().items()}
    state = {'.'.join([theirs[k.rpartition('.')[0]], k.rpartition('.')[2]]): v for k, v in model.state_dict().items()}
    loaded = MultiMix.from_released(state)
    assert loaded.options == model.options
    x = images(2, 32, channels=model.options['in_channels'])
    assert torch.equal(loaded.eval()(x).masks, model.eval()(x).masks)


def broken(change):
    state = dict(Published().state_dict())
    change(state)
    return state


@pytest.mark.parametrize('change, words', [
    (lambda s: s.pop('encoder.dconv_down3.3.bias'), ['missing encoder.dconv_down3.3.bias']),
    (lambda s: s.pop('encoder.fc.weight'), ['encoder.fc.weight']),
    (lambda s: s.update({'encoder.dconv_down9.0.bias': torch.zeros(2)}), ['unexpected encoder.dconv_down9.0.bias']),
    (lambda s: s.update({'decoder.dconv_up2.0.weight': torch.zeros(32, 95, 3, 3)}),
     ['decoder.dconv_up2.0.weight', '(32, 95, 3, 3)', '(32, 96, 3, 3)']),
    (lambda s: s.update({'encoder.fc.b': s.pop('encoder.fc.bias')}), ['missing encoder.fc.bias', 'unexpected encoder.fc.b']),
    (lambda s: s.update({'encoder.fc.weight': torch.tensor(1.)}), ['misshapen encoder.fc.weight']),
    (lambda s: s.clear(), ['no state dict']),
    (lambda s: s.update({'epoch': 3}), ['no state dict']),
])
def test_from_released_names_what_does_not_fit(change, words):
    with pytest.raises(InputError) as error:
        MultiMix.from_released(broken(change))
    assert all(w in str(error.value) for w in words) and '\n' not in str(error.value)


class Surprise:
    def __reduce__(self):
        return (print, ('a checkpoint must not be able to run this',))


def test_from_released_refuses_files_that_are_no_tensors(tmp_path, capsys):
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    torch.save({'state_dict': Surprise()}, tmp_path / 'program.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    for name in ('text.pth', 'program.pth', 'list.pth', 'none.pth'):
        with pytest.raises(InputError, match=name):
            MultiMix.from_released(tmp_path / name)
    assert capsys.readouterr().out == ''


# --- shapes and options --------------------------------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(2, 5), st.integers(2, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3),
       st.booleans(), st.booleans(), st.sampled_from(['none', 'max']))
def test_shapes(n, h, w, classes, structures, width, channels, bridge, training, scale):
    model = MultiMix(classes, structures, width, channels, bridge=bridge, saliency_scale=scale, seed=0).train(training)
    out = model(images(n, 16 * h, 16 * w, channels))
    assert isinstance(out, Outputs)
    assert out.logits.shape == (n, classes) and out.masks.shape == (n, structures, 16 * h, 16 * w)
    assert out.saliency.shape == (n, 1, 16 * h, 16 * w) if bridge else out.saliency is None
    assert all(v.isfinite().all() for v in out if v is not None)


def test_maps_are_finest_first(model):
    features = model.encode(images(3, 96, 32))
    assert [tuple(m.shape) for m in features.maps] == [(3, 16 * 2 ** i, 96 // 2 ** i, 32 // 2 ** i) for i in range(5)]
    assert features.logits.shape == (3, 2)


def test_no_decoder_no_dead_weights():
    model = MultiMix(decoder=False, seed=0)
    out = model(images())
    assert out.masks is None and out.saliency is None and model.decoder is None and not model.options['bridge']
    assert model.saliency(images()).shape == (2, 1, 64, 64)   # a classifier can still be asked
    out.logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(InputError, match='decoder=False'):
        model.decode(images(), model.encode(images()).maps)


def test_bridge_needs_its_map(model):
    with pytest.raises(InputError, match='saliency'):
        model.decode(images(), model.encode(images()).maps)


@pytest.mark.parametrize('x, words', [
    (torch.rand(2, 1, 40, 32), '40, 32'), (torch.rand(2, 1, 16, 16), '16, 16'), (torch.rand(2, 1, 16, 64), '16, 64'),
    (torch.rand(2, 3, 32, 32), '2, 3, 32, 32'), (torch.rand(32, 32), '32, 32'), (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), 'uint8')])
@pytest.mark.parametrize('call', ['__call__', 'encode', 'saliency'])
@pytest.mark.parametrize('training', [True, False])
def test_unfit_images_are_named(model, x, words, call, training):
    with pytest.raises(InputError) as error:
        getattr(model.train(training), call)(x)
    assert words in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('option', [dict(num_classes=0), dict(mask_channels=1.5), dict(width=-1), dict(in_channels=None), dict(dropout=1.),
                                    dict(dropout=-.1), dict(saliency_scale='mean')])
def test_unfit_options_are_named(option):
    with pytest.raises(InputError, match=next(iter(option))):
        MultiMix(**option)


def test_seed_fixes_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two, other = MultiMix(seed=7), MultiMix(seed=7), MultiMix(seed=8)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not torch.equal(one.encoder.head.weight, other.encoder.head.weight)
    assert not torch.equal(MultiMix().encoder.head.weight, MultiMix().encoder.head.weight)


# --- modes, gradients, dropout (errata E6 and E7) ------------------------------------------------------------------------------

@pytest.mark.parametrize('training', [True, False])
def test_modes_are_left_alone(model, training):
    model.train(training)
    model.decoder.blocks[1].train(not training)   # a mode that somebody set on purpose
    before = [m.training for m in model.modules()]
    model(images()), model.saliency(images()), model.encode(images(), dropout=False)
    assert [m.training for m in model.modules()] == before


def test_eval_is_deterministic(model):
    model.eval()
    first, second = model(images()), model(images())
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    model.train()
    assert not torch.equal(model(images()).logits, model(images()).logits)


@pytest.mark.parametrize('training', [True, False])
def test_accumulated_gradients_survive(model, training):
    model.train(training)
    out = model(images())
    (out.logits.sum() + out.masks.sum()).backward()
    before = [p.grad.clone() for p in model.parameters()]
    model(images(seed=1)), model.saliency(images(seed=1))
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before))
    assert sum(g.abs().sum() for g in before) > 0


def test_two_half_batches_make_the_gradient_of_the_whole(model):
    model = model.double().eval()
    x = images(4, 32, dtype=torch.float64)
    model(x).masks.sum().backward()
    whole = model.encoder.blocks[0].conv1.weight.grad.clone()
    model.zero_grad()
    for half in (x[:2], x[2:]):
        model(half).masks.sum().backward()
    assert torch.allclose(whole, model.encoder.blocks[0].conv1.weight.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_works_without_gradients(model, training, context):
    model.train(training)
    torch.manual_seed(0)
    free = model(images())
    with context():
        torch.manual_seed(0)
        out = model(images())
        alone = model.saliency(images())
    for a, b in zip(out, free):
        assert torch.equal(a, b)
    assert torch.equal(alone, free.saliency)
    assert not any(v.requires_grad or v.grad_fn for v in out) and all(p.grad is None for p in model.parameters())
    assert out.saliency.abs().sum() > 0
    model(images()).masks.sum().backward()   # and training goes on afterwards


def test_frozen_weights_have_a_saliency_map_too(model):
    free = model.eval()(images()).saliency
    assert torch.equal(model.requires_grad_(False)(images()).saliency, free)


def test_saliency_is_detached_and_takes_no_gradient_to_the_images(model):
    x = images().requires_grad_()
    assert not model.saliency(x).requires_grad and x.grad is None
    out = model.eval()(x)
    assert not out.saliency.requires_grad
    (out.logits.sum() + out.masks.sum()).backward()   # the images themselves may be asked
    assert x.grad.abs().sum() > 0


def test_gradients_to_the_images_are_right_in_eval_mode():
    model = MultiMix(width=2, bridge=True, seed=0).double().eval()
    x = images(1, 32, dtype=torch.float64).requires_grad_()
    model(x).masks.sum().backward()
    saliency = model.saliency(x)
    z = x.detach().clone().requires_grad_()
    model.decode(z, model.encode(z).maps, saliency).sum().backward()
    assert torch.allclose(x.grad, z.grad, atol=1e-10)


def test_dropout_is_an_argument(model):
    block = Block(4, 8, p=.5)
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(block(x, False), block(x, False)) and not torch.equal(block(x, True), block(x, True))
    block.eval()
    assert (block(x, True) == 0).float().mean() > .4 and (block(x, False) == 0).float().mean() < .1
    torch.manual_seed(0)
    as_mode = model.train().encode(images()).logits
    torch.manual_seed(0)
    assert torch.equal(as_mode, model.eval().encode(images(), dropout=True).logits)
    assert torch.equal(model.train().encode(images(), dropout=False).logits, model.eval().encode(images()).logits)
    saliency, features = model.saliency(images()), model.encode(images())
    assert not torch.equal(model.decode(images(), features.maps, saliency, dropout=True), model.decode(images(), features.maps, saliency))


def test_the_saliency_map_never_sees_dropout(model):
    assert torch.equal(model.train().saliency(images()), model.eval().saliency(images()))
    assert torch.equal(model.train()(images()).saliency, model.eval()(images()).saliency)


def test_number_of_encoder_passes(model, monkeypatch):
    calls = counting_encoder(model, monkeypatch)
    model.eval()(images())
    assert calls == [False]
    model.train()(images())
    assert calls[1:] == [False, True]
    plain = MultiMix(bridge=False, seed=0)
    calls = counting_encoder(plain, monkeypatch)
    plain(images())
    assert calls == [True]
    none = MultiMix(dropout=0., seed=0)
    calls = counting_encoder(none, monkeypatch)
    none(images())
    assert calls == [False]   # nothing to drop, so one pass does while training too


# --- the saliency map (errata E8 and E9) ---------------------------------------------------------------------------------------

def test_the_largest_logit_is_differentiated():
    x = torch.tensor([[[[1., 2.]]], [[[3., 4.]]]], requires_grad=True)
    logits = torch.stack([(5 * x).sum((1, 2, 3)), (-7 * x).sum((1, 2, 3)), torch.full((2,), 20.)], 1)
    assert torch.equal(input_gradient(logits, x), torch.tensor([0., 0., 5., 5.]).reshape(2, 1, 1, 2))


def test_saliency_is_the_slope_of_the_logit(model):
    "Against finite differences, in the predicted class's logit, not in its probability."
    model = MultiMix(num_classes=3, width=4, seed=0).double()
    x = images(1, 32, dtype=torch.float64)
    k = model.encode(x, dropout=False).logits.argmax(1).item()
    saliency, h = model.saliency(x), 1e-7
    for row, column in [(3, 5), (16, 20), (30, 9)]:
        up, down = x.clone(), x.clone()
        up[0, 0, row, column] += h
        down[0, 0, row, column] -= h
        rise = model.encode(up, dropout=False).logits[0, k] - model.encode(down, dropout=False).logits[0, k]
        assert torch.allclose(saliency[0, 0, row, column], (rise / (2 * h)).abs(), rtol=1e-4, atol=1e-7)


def test_saliency_of_an_image_does_not_depend_on_its_batch(model):
    model, x = model.double(), images(3, 32, dtype=torch.float64)
    assert torch.allclose(model.saliency(x)[1:2], model.saliency(x[1:2]), atol=1e-10)


def test_colour_images_keep_their_strongest_channel():
    model = MultiMix(in_channels=3, width=4, seed=0)
    x = images(2, 32, channels=3).requires_grad_()
    gradient, = torch.autograd.grad(model.encode(x, dropout=False).logits.max(1).values.sum(), x)
    assert torch.allclose(model.saliency(x), gradient.abs().max(1, keepdim=True).values)


def test_the_published_map_is_some_hundred_times_fainter_than_the_image():
    "Erratum E8: at 256 pixels, with random weights, on uniform noise."
    x = torch.rand(4, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    faint, loud = MultiMix(seed=0).saliency(x), MultiMix(saliency_scale='max', seed=0).saliency(x)
    assert 100 < x.mean() / faint.mean() < 200
    assert torch.equal(loud.amax((1, 2, 3)), torch.ones(4))
    assert torch.allclose(loud * faint.amax((1, 2, 3), keepdim=True), faint, atol=1e-7)
    assert x.mean() / loud.mean() < 10


def test_an_all_zero_map_stays_zero():
    model = MultiMix(saliency_scale='max', seed=0)
    nn.init.zeros_(model.encoder.head.weight)
    out = model.eval()(images())
    assert out.saliency.abs().max() == 0 and out.masks.isfinite().all()


def test_the_bridge_changes_the_masks_and_carries_the_map(model):
    model.eval()
    x, features = images(), model.encode(images())
    assert not torch.allclose(model.decode(x, features.maps, torch.zeros_like(x)), model.decode(x, features.maps, torch.rand_like(x)))
    out = model(x)
    assert torch.equal(out.masks, model.decode(x, model.encode(x).maps, out.saliency))


@pytest.mark.parametrize('height, width', [(32, 32), (64, 96), (48, 160), (256, 256)])
def test_bridge_is_the_published_eighth(height, width):
    x, s = images(2, height, width), images(2, height, width, seed=1)
    published = F.interpolate(torch.cat([x, s], 1), scale_factor=.125, mode='bilinear', align_corners=True)
    assert torch.allclose(make_bridge(x, s), published, atol=1e-6)


def test_instance_norm_is_pytorchs():
    x = 3 + 5 * torch.randn(2, 6, 9, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(instance_norm(x), nn.InstanceNorm2d(6)(x), atol=1e-5)


def test_e16_told_the_wrong_number_of_channels_pytorchs_only_warns():
    x = 3 + 5 * torch.randn(2, 6, 9, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match='num_features'):
        told_wrong = nn.InstanceNorm2d(4)(x)
    assert torch.allclose(instance_norm(x), told_wrong, atol=1e-5)


def test_e16_a_pass_of_our_network_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        out = MultiMix(seed=0)(images())
        (out.masks.mean() + out.logits.mean()).backward()


# --- where it runs -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('context', [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize('training', [True, False])
def test_bfloat16_autocast(model, context, training):
    exact = MultiMix(seed=0, dropout=0.)(images())
    model = MultiMix(seed=0, dropout=0.).train(training)
    with context(), torch.autocast('cpu', torch.bfloat16):
        out = model(images())
    assert out.saliency.dtype == torch.float32 and all(v.isfinite().all() for v in out)
    assert (out.logits.float() - exact.logits).abs().max() < .05
    assert F.cosine_similarity(out.saliency.flatten(), exact.saliency.flatten(), 0) > .7   # bfloat16 puts more units across their kinks


def test_autocast_keeps_the_gradients_of_the_weights(model):
    "A pass under no_grad or inference_mode inside the same autocast region must not leave gradient-free copies of the weights behind."
    with torch.autocast('cpu', torch.bfloat16):
        with torch.no_grad():
            model(images())
        with torch.inference_mode():
            model(images())
        out = model(images())
        (out.logits.float().sum() + out.masks.float().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in (model.encoder.blocks[0].conv1.weight, model.decoder.head.weight, model.encoder.head.weight))


def test_compiles_copies_and_saves(model, tmp_path):
    model.eval()
    expected = model(images())
    compiled = torch.compile(model, backend='eager')
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(compiled(images()), expected))
    torch.save(model.state_dict(), tmp_path / 'weights.pt')
    again = MultiMix(**model.options)
    again.load_state_dict(torch.load(tmp_path / 'weights.pt', weights_only=True))
    assert torch.equal(again.eval()(images()).masks, expected.masks)
    assert torch.equal(copy.deepcopy(model)(images()).masks, expected.masks)


def test_detached_features_hold_no_graph(model):
    features, _ = encode_with_saliency(model, images())
    assert not any(m.requires_grad for m in features.maps) and not features.logits.requires_grad
    features, _ = encode_with_saliency(model, images(), keep_graph=True)
    assert features.logits.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_the_same_on_a_gpu(model):
    model = model.double().eval()
    x = images(2, 64, dtype=torch.float64)
    here = model(x)
    there = model.cuda()(x.cuda())
    assert all(torch.allclose(a, b.cpu(), atol=1e-9) for a, b in zip(here, there))


@pytest.mark.parametrize("p", [0.25, 0.1, 0.5, 0.999])
def test_dropout_keeps_the_share_and_the_mean_and_scales_what_stays(p):
    level = min(round(256 * p), 255)
    torch.manual_seed(0)
    x = torch.ones(300_001, requires_grad=True)  # no multiple of eight
    y = dropout_bytes(x, p)
    share = 1 - level / 256
    assert torch.allclose(y[y > 0], torch.tensor(1 / share))
    assert abs((y > 0).float().mean() - share) < 5 * (share * (1 - share) / len(x)) ** 0.5
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_dropout_draws_the_same_places_for_every_kind_of_number(dtype):
    x = torch.ones(3, 4, 5, 7, dtype=dtype)
    torch.manual_seed(2)
    y = dropout_bytes(x, 0.25)
    torch.manual_seed(2)
    expected = dropout_bytes(x.double(), 0.25)
    assert y.dtype == dtype and torch.equal(y, expected.to(dtype))
    assert set(y.unique().tolist()) == {0, torch.tensor(4 / 3, dtype=dtype).item()}


def test_dropout_takes_an_empty_batch_and_can_be_compiled_around():
    assert dropout_bytes(torch.ones(0, 3, 4, 4), 0.25).shape == (0, 3, 4, 4)
    x = torch.rand(2, 8, 8, 8)
    torch.manual_seed(0)
    expected = dropout_bytes(x * 2, 0.25)
    torch.manual_seed(0)
    assert torch.equal(torch.compile(lambda x: dropout_bytes(x * 2, 0.25), backend="aot_eager")(x), expected)


def test_dropout_is_drawn_from_torchs_generator():
    x = torch.ones(1000)
    torch.manual_seed(1)
    first = dropout_bytes(x, 0.25)
    torch.manual_seed(1)
    assert torch.equal(first, dropout_bytes(x, 0.25)) and not torch.equal(first, dropout_bytes(x, 0.25))


def test_a_slope_that_is_no_number_counts_as_none():
    x = torch.tensor([[[[0.0, 1.0]]], [[[2.0, 3.0]]]], requires_grad=True)
    logits = torch.stack([(x.sqrt()).sum((1, 2, 3)), torch.zeros(2)], 1)  # the root's slope at 0 is infinite
    assert input_gradient(logits, x).isfinite().all() and input_gradient(logits.detach() + x.sum((1, 2, 3))[:, None], x).eq(1).all()
