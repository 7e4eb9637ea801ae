"""The published algorithm, written down plainly: `multimix.plain`, under the names that these tests use.

It is slow and naive, follows the released code where that and the paper differ, and shares no line with what it checks.
"""
from multimix.plain import Published, plain_loss, published_loss

__all__ = ['Published', 'reference_loss', 'reference_step']
reference_loss = published_loss


def reference_step(model, seg, masks, seg_unlabeled, cls, labels, weak, strong):
    "The five batches of one released step through `model`, and their `reference_loss`."
    return plain_loss(model, seg=seg, masks=masks, seg_unlabeled=seg_unlabeled, cls=cls, labels=labels, weak=weak, strong=strong)
