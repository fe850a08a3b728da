"""Generated images of digits and letters as a training task: fonts, rotation, scale, contrast, clutter, noise."""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIZE = 32  # pixels a side
# They come with matplotlib, which itself is not used.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold",
    "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
_HEIGHTS = range(18, 27)  # of the fonts, in pixels
_TURN, _SHIFT = 25.0, 4  # at most: degrees, pixels
_STROKES = 3  # of clutter, at most
_NOISE = 0.18  # standard deviation, at most


@dataclass(frozen=True)
class Glyphs:
    """Images [N, 1, 32, 32], about zero mean, and their labels [N]."""

    images: Tensor
    labels: Tensor


def glyphs(count: int, seed: int) -> Glyphs:
    """Return `count` images, as many of each class as of any other (but for one); the same for the same seed."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % len(CLASSES))
    images = np.stack([_image(CLASSES[label], random) for label in labels])
    return Glyphs(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))


def _image(character: str, random: np.random.Generator) -> NDArray[np.float32]:
    """Return one image [32, 32]."""
    font = _font(str(random.choice(FONTS)), int(random.choice(_HEIGHTS)))
    canvas = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(canvas)
    middle = SIZE / 2 + random.uniform(-_SHIFT, _SHIFT, 2)
    draw.text((middle[0], middle[1]), character, 255, font, anchor="mm")
    canvas = canvas.rotate(random.uniform(-_TURN, _TURN), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    for _ in range(random.integers(0, _STROKES + 1)):
        start, end = random.uniform(0, SIZE, (2, 2))
        draw.line((*start, *end), fill=int(random.integers(80, 256)), width=1)
    ink = np.asarray(canvas, dtype=np.float32) / 255
    paper, contrast = random.uniform(-0.5, 0.5), random.uniform(0.6, 1.4)
    noise = random.normal(0, random.uniform(0, _NOISE), ink.shape)
    return (paper + contrast * (ink - 0.2) + noise).astype(np.float32)


@functools.cache
def _font(name: str, height: int) -> ImageFont.FreeTypeFont:
    # FreeType's own layout gives the same pixels whether or not libraqm is installed.
    return ImageFont.truetype(_folder() / f"{name}.ttf", height, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _folder() -> Path:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise FileNotFoundError("the fonts come with matplotlib, which is not installed: run tools/peers")
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
