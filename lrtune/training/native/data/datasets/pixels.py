"""From an image file to a square of 8-bit RGB pixels, whatever the file holds.

Pillow's own conversion to RGB cuts values above 255 off and drops transparency, so both are dealt
with here. PIL is imported where it is used.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.training.native.data.datasets.cache import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Values = np.ndarray[Any, np.dtype[np.generic]]
Range = tuple[float, float]
"""Smallest and largest value."""

DECODING = 2
"""Version of `decode`: another one whenever it gives other pixels."""
FLOAT_FORMATS = ("TIFF", "PPM")
"""Pillow's names of the formats whose images may hold floating-point numbers."""
UNIT: Range = (0.0, 1.0)
"""The values of a floating-point image, unless its set goes beyond them."""


def formats() -> list[str]:
    """Pillow's names of the image formats that it can open here.

    Documents, videos and containers of data are none: Pillow opens them by other programs, if at
    all, and gives them another MIME type or none.
    """
    from PIL import Image

    Image.init()
    return [name for name in Image.ID if Image.MIME.get(name, "").startswith("image/")]


def suffixes(wanted: list[str] | tuple[str, ...]) -> frozenset[str]:
    """The suffixes of files of some formats, in lower case and with their dot."""
    from PIL import Image

    return frozenset(
        suffix for suffix, name in Image.registered_extensions().items() if name in wanted
    )


def shorter_side(path: Path) -> int:
    """The smaller of height and width, in pixels; only the header is read."""
    with _opened(path) as image:
        return min(image.size)


def float_range(path: Path) -> Range | None:
    """The range of a floating-point image; `None` for any other.

    Raises:
        ValueError: a value is not finite.
    """
    with _opened(path) as image:
        if image.mode != "F":
            return None
        values = np.asarray(image)
    _check_finite(values)
    return float(values.min()), float(values.max())


def decode(path: Path, size: int, floats: Range) -> Pixels:
    """The pixels of an image, uint8, (3, size, size): the first frame of an animation.

    The image is turned upright as its EXIF data say, laid on white where it is transparent, scaled
    until it just covers the square, and cut to it. Values of 16 or 32 bits are scaled from the
    range of their type to 0..255.

    Args:
        path: the file.
        size: side of the square, in pixels.
        floats: the values of floating-point images that become 0 and 255.

    Raises:
        Exception: whatever Pillow raises where the file cannot be read.
        ValueError: a floating-point value is outside of `floats`, or not finite.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        # A JPEG far larger than this is decoded at a fraction of its size.
        image.draft("RGB", (size, size))
        ImageOps.exif_transpose(image, in_place=True)
        square = ImageOps.fit(_as_rgb(image, floats), (size, size), Image.Resampling.BILINEAR)
        return np.asarray(square).transpose(2, 0, 1)


def _opened(path: Path) -> "Image":
    from PIL import Image

    return Image.open(path, formats=formats())


def _as_rgb(image: "Image", floats: Range) -> "Image":
    from PIL import Image

    if image.mode[0] in "IF":
        return Image.fromarray(_in_bytes(image, floats)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _in_bytes(image: "Image", floats: Range) -> Pixels:
    """The values of an image of one channel of more than 8 bits, scaled to 0..255."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        low, high = floats
        _check_finite(values)
        if values.min() < low or values.max() > high:
            raise ValueError(f"its values must lie between {low:g} and {high:g}")
    else:
        low, high = _range_of_type(image)
        if low == 0:
            values %= high + 1  # Pillow hands unsigned 32 bits over as signed ones
    pixels = np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        pixels[values == transparent] = 255  # on white
    return pixels


def _range_of_type(image: "Image") -> Range:
    """What the whole numbers of more than 8 bits can be in the file that an image was read from.

    Only TIFF has other than unsigned 16 bits; PGM of fewer is scaled to them by Pillow.
    """
    from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT, TiffImageFile

    num_bits, is_signed = 16, False
    if isinstance(image, TiffImageFile):
        num_bits = image.tag_v2[BITSPERSAMPLE][0]
        is_signed = image.tag_v2.get(SAMPLEFORMAT, (1,))[0] == 2
    low = -(2 ** (num_bits - 1)) if is_signed else 0
    return low, low + 2**num_bits - 1


def _check_finite(values: Values) -> None:
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite numbers")
