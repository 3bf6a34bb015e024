"""The two data sets made of scikit-learn's handwritten digits, which need no download.

`digits` are 1,797 images of 8x8 pixels, and many schedules read them equally well: the best third
of 60 differ by a standard deviation of 0.12 points. `cluttered-digits` is the same handwriting made
hard enough that the schedule matters, as Mnih et al. 2014 (arXiv 1406.6247, section 4.1) did it
with MNIST: each digit stands anywhere on a larger canvas, between pieces of other digits, under
noise.
"""

import torch
from torch import Tensor

from lrtune.training.native.data.datasets.decoded import Decoded, Part, stratified
from lrtune.training.native.randomness import derive_seed

NUM_TEST = 300
"""Digits that are kept for testing, in both data sets."""
SIZE = 4000
"""Images of `cluttered-digits` for training, for validation and for testing each."""
CANVAS, PIECE = 14, 4
"""Sides in pixels of a canvas, and of a piece of another digit."""
NUM_PIECES = 3
NOISE_TERMS, NOISE_RANGE = 4, 69
"""The noise of a pixel is the sum of so many whole numbers around 0, each from a range of this
length: nearly normal with a deviation of 40, where ink is 255. Whole numbers are the same on every
machine, normal ones are not to the last bit."""


def digits() -> Decoded:
    """The images as they are, 300 of them for testing and 300 for validation."""
    train, test = _split(_all_digits(), NUM_TEST)
    return Decoded(train=train, test=test, num_classes=10, flips=False, val_size=300)


def cluttered_digits() -> Decoded:
    """`SIZE` canvases each for training, validation and testing.

    No handwritten digit is in two of the three, not even as a piece beside another one. The images
    are the same on every machine.
    """
    rest, test = _split(_all_digits(), NUM_TEST)
    train, validation = _split(rest, NUM_TEST)
    return Decoded(
        train=_cluttered("train", train),
        validation=_cluttered("validation", validation),
        test=_cluttered("test", test),
        num_classes=10,
        flips=False,
    )


def _all_digits() -> Part:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.from_numpy(loaded.images * (255 / 16)).round().to(torch.uint8)  # from 0..16
    return Part(images[:, None], torch.from_numpy(loaded.target).long())


def _split(part: Part, count: int) -> tuple[Part, Part]:
    """All but `count` images, and these."""
    order = stratified(part.labels, derive_seed(0, "digits", "test"))
    return part[order[count:]], part[order[:count]]


def _cluttered(name: str, part: Part) -> Part:
    """A canvas around each digit, and around all of them again until there are enough."""
    generator = torch.Generator().manual_seed(derive_seed(0, "cluttered", name))
    count, shown = SIZE, torch.arange(SIZE) % len(part)
    sources = part.images[:].long()
    canvas = torch.zeros(count, CANVAS, CANVAS, dtype=torch.long)
    side = sources.shape[-1]
    for _ in range(NUM_PIECES):
        others = torch.randint(len(part), (count,), generator=generator)
        corners = torch.randint(side - PIECE + 1, (2, count), generator=generator)
        pieces = _cut(sources[others, 0], corners, PIECE)
        _lay(canvas, pieces, torch.randint(CANVAS - PIECE + 1, (2, count), generator=generator))
    places = torch.randint(CANVAS - side + 1, (2, count), generator=generator)
    _lay(canvas, sources[shown, 0], places)
    terms = torch.randint(NOISE_RANGE, (NOISE_TERMS, *canvas.shape), generator=generator)
    canvas += (terms - NOISE_RANGE // 2).sum(0)
    images = canvas.clamp(0, 255).to(torch.uint8)[:, None]
    return Part(images, part.labels[shown])


def _cut(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """A square of each image (N, H, W), by its upper left corner (2, N)."""
    index, rows, columns = _squares(corners, side)
    return images[index, rows, columns]


def _lay(canvas: Tensor, squares: Tensor, corners: Tensor) -> None:
    """Squares (N, side, side) onto each canvas; where there is ink already, the brighter stays."""
    index, rows, columns = _squares(corners, squares.shape[-1])
    canvas[index, rows, columns] = torch.maximum(canvas[index, rows, columns], squares)


def _squares(corners: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the pixels of one square in each image, which broadcast to (N, side, side)."""
    down, right = corners
    along = torch.arange(side)
    index = torch.arange(corners.shape[1])[:, None, None]
    return index, down[:, None, None] + along[:, None], right[:, None, None] + along
