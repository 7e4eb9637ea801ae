"""The published algorithm, written down plainly for the tests: slow, naive, and sharing no line with the library.

Source: MultiMix (ISBI 2021), section 2 and supplement, Tables 1 and 2. The names of the parameters are those of the released code, so
that a `state_dict()` of `Published` is what a released checkpoint looks like. Where code and paper differ, this follows the code.
"""
import torch
from torch import nn

CHANNELS = (16, 32, 64, 128, 256)


def two_convolutions(i, o):
    "What the released code builds every level from; the convolutions are its members 0 and 3."
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.InstanceNorm2d(o), nn.LeakyReLU(.2),
                         nn.Conv2d(o, o, 3, padding=1), nn.InstanceNorm2d(o), nn.LeakyReLU(.2), nn.Dropout(.25))


class PublishedEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        for level, o in enumerate(CHANNELS, start=1):
            self.add_module(f'dconv_down{level}', two_convolutions(1 if level == 1 else o // 2, o))
        self.fc = nn.Linear(256, 2)

    def forward(self, x):
        halve, kept = nn.MaxPool2d(2), []
        for level in range(1, 6):
            kept.append(self.get_submodule(f'dconv_down{level}')(x))
            x = halve(kept[-1])
        return kept, self.fc(nn.AdaptiveAvgPool2d(1)(x).flatten(1))


class PublishedDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        for level, (i, o) in {4: (256 + 128 + 2, 128), 3: (128 + 64, 64), 2: (64 + 32, 32), 1: (32 + 16, 16)}.items():
            self.add_module(f'dconv_up{level}', two_convolutions(i, o))
        self.conv_last = nn.Conv2d(16, 1, 1)
        self.conv_last_saliency = nn.Conv2d(17, 1, 1)   # 18 parameters that nothing uses

    def forward(self, image, kept, saliency):
        double = nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True)
        eighth = nn.Upsample(scale_factor=.125, mode='bilinear', align_corners=True)
        x = torch.cat([double(kept[4]), kept[3], eighth(torch.cat([image, saliency], 1))], 1)
        for level in (4, 3, 2, 1):
            x = self.get_submodule(f'dconv_up{level}')(x)
            if level > 1:
                x = torch.cat([double(x), kept[level - 2]], 1)
        return self.conv_last(x)


class Published(nn.Module):
    """`model(x)` gives (mask logits, class logits, saliency map). Call `eval()` first, for answers without dropout. Two defects of the
    released code are left out, as no number hangs on them then: it leaves dropout on (erratum E6) and wipes gradients (E7)."""
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = PublishedEncoder(), PublishedDecoder()

    def saliency(self, x):
        "Slope of the largest logit of each image, with dropout off, by `backward`; what this leaves in `.grad` of the weights is put back."
        before = [p.grad for p in self.parameters()]
        modes = [m.training for m in self.encoder.modules()]
        pixels = x.detach().clone().requires_grad_()
        self.encoder.eval()
        _, logits = self.encoder(pixels)
        largest, _ = logits.max(1)
        largest.backward(torch.ones_like(largest))
        for p, g in zip(self.parameters(), before):
            p.grad = g
        for m, mode in zip(self.encoder.modules(), modes):
            m.training = mode
        return pixels.grad.abs()

    def forward(self, x):
        saliency = self.saliency(x)
        kept, logits = self.encoder(x)
        return self.decoder(x, kept, saliency), logits, saliency


def reference_loss(mask_logits, masks, unlabeled_mask_logits, class_logits, labels, weak_logits, strong_logits):
    """The loss of one released step, as a dict of its four terms and their `total`: CE + 5 Dice + 0.25 L_u + 0.01 KL.
    Mask logits and masks are (n, 1, H, W), class logits (n, 2); the two mask batches are of equal size, and so are weak and strong."""
    p = 1 / (1 + torch.exp(-mask_logits))
    dice = torch.stack([1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for image, truth in zip(p, masks)
                        for a, b in zip(image, truth)]).mean()
    ce = torch.stack([-row.log_softmax(0)[label] for row, label in zip(class_logits, labels)]).mean()
    unsupervised = []
    for weak, strong in zip(weak_logits, strong_logits):
        confidence, label = weak.softmax(0).max(0)
        unsupervised.append(-strong.log_softmax(0)[label] * (confidence >= .7))   # a left-out image still counts in the mean
    unsupervised = torch.stack(unsupervised).mean()
    of_labeled, of_unlabeled = mask_logits.softmax(1), unlabeled_mask_logits.softmax(1)   # of one channel: 1 everywhere (erratum E4)
    kl = (of_labeled * (of_labeled.log() - of_unlabeled.log())).mean()
    return {'ce': ce, 'dice': dice, 'unsupervised': unsupervised, 'kl': kl, 'total': ce + 5 * dice + .25 * unsupervised + .01 * kl}


def reference_step(model, seg, masks, seg_unlabeled, cls, labels, weak, strong):
    "The five batches of one released step through `model` in one pass, and their `reference_loss`."
    batches = (seg, seg_unlabeled, cls, weak, strong)
    mask_logits, class_logits, _ = model(torch.cat(batches))
    sizes = [len(b) for b in batches]
    drawn, judged = mask_logits.split(sizes), class_logits.split(sizes)
    return reference_loss(drawn[0], masks, drawn[1], judged[2], labels, judged[3], judged[4])
