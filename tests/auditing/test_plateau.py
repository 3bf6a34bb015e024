"""Plateaus: what they are given, how often, and what comes of that."""

import math
import random

import pytest
import torch
from torch.optim import lr_scheduler as lrs

from lrtune.auditing.watch import watch

STEPS = 20


def watched(options, metrics, *, every=STEPS):
    """Steps an optimizer and calls a plateau with the next metric after each `every` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = lrs.ReduceLROnPlateau(optimizer, **options)
    epochs = len(metrics) * every // STEPS
    with watch(optimizer, scheduler=scheduler, steps_per_epoch=STEPS, epochs=epochs) as seen:
        for metric in metrics:
            for _ in range(every):
                optimizer.step()
            scheduler.step(metric)
    return [(finding.name, finding.severity) for finding in seen.audit().findings]


def noisy(trend, count, spread=0.3):
    draw = random.Random(0)
    return [trend(k) + draw.gauss(0, spread) for k in range(count)]


FALLING = [1 / (k + 1) for k in range(30)]
RISING = [1 - loss for loss in FALLING]
PATIENT = {"patience": 3}


@pytest.mark.parametrize(
    ("options", "metrics", "every", "found"),
    [
        # right
        (PATIENT, FALLING, STEPS, []),
        (PATIENT, [*FALLING, *[0.04] * 20], STEPS, []),
        (PATIENT | {"mode": "max"}, RISING, STEPS, []),
        (PATIENT, [*FALLING[:10], *(0.1 + k / 100 for k in range(20))], STEPS, []),  # overfits
        (PATIENT, noisy(lambda k: 2 - 0.05 * k, 30), STEPS, []),
        (PATIENT, [round(loss, 2) for loss in FALLING], STEPS, []),  # a coarse metric
        ({"patience": 500}, noisy(lambda k: 2 - 0.001 * k, 1000), 1, []),  # it never fell
        # called after each batch
        (
            {"patience": 10}, noisy(lambda k: 2 - 0.001 * k, 1000), 1,
            [("plateau-each-batch", "wrong")],
        ),
        ({"patience": 10}, noisy(lambda k: 2, 1000), 1, [("plateau-each-batch", "suspicious")]),
        # the wrong mode
        (PATIENT | {"mode": "max"}, FALLING, STEPS, [("plateau-wrong-mode", "wrong")]),
        (PATIENT, RISING, STEPS, [("plateau-wrong-mode", "suspicious")]),
        (
            PATIENT, noisy(lambda k: 40 + 2 * k, 30, spread=0.5), STEPS,
            [("plateau-wrong-mode", "suspicious")],
        ),
        (
            PATIENT, [min(0.95, 0.5 + 0.05 * k) for k in range(40)], STEPS,
            [("plateau-wrong-mode", "suspicious")],
        ),
        # each metric several times
        (
            {"patience": 3}, [v for v in FALLING for _ in range(2)], STEPS,
            [("plateau-stale-metric", "suspicious")],
        ),
        (
            {"patience": 3}, [v for v in FALLING for _ in range(5)], STEPS,
            [("plateau-stale-metric", "wrong")],
        ),
        (
            {"patience": 1}, [v for v in FALLING for _ in range(2)], STEPS // 2,
            [("plateau-stale-metric", "suspicious")],
        ),
        # it cannot fall
        ({"patience": 30}, FALLING, STEPS, [("plateau-patience-too-long", "suspicious")]),
        ({"patience": 28}, FALLING, STEPS, []),
        # no metric
        (PATIENT, [math.nan] * 10, STEPS, [("plateau-without-metric", "wrong")]),
    ],
)  # fmt: skip
def test_a_plateau(options, metrics, every, found):
    assert watched(options, metrics, every=every) == found
