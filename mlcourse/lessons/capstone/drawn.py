"""Fifteen pictures that stand for photos where a learner has none: cups, leaves and keys. They are drawn, not taken.

The course draws them from a seed: an object of its own colour and size, turned, on a background with a shade of light.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("cup", "key", "leaf")
EACH, SIDE = 5, 168  # pictures of a kind; pixels, drawn at twice the size and scaled down


def write(folder: Path, seed: int = 0) -> Path:
    """Write three class folders of five pictures. What is there already stays as it is."""
    generator = np.random.default_rng(seed)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(EACH):
            picture = draw(kind, generator)
            path = folder / kind / f"{kind}{number}.png"
            if not path.exists():
                picture.save(path)
    return folder


def draw(kind: str, generator: np.random.Generator) -> Image.Image:
    """One picture of a kind: RGB, 84 × 84."""
    ground = _colour(generator, saturation=(0.05, 0.35), value=(0.6, 0.95))
    ink = _colour(generator, saturation=(0.35, 0.9), value=(0.15, 0.6))
    layer = Image.new("RGBA", (SIDE, SIDE))
    SHAPES[kind](ImageDraw.Draw(layer), ink, generator)
    size = int(SIDE * generator.uniform(0.75, 1.0))
    turned = layer.resize((size, size)).rotate(generator.uniform(-25, 25), Image.Resampling.BICUBIC)
    place = tuple(int(generator.uniform(0, SIDE - size + 1)) for _ in range(2))
    picture = Image.fromarray(_lit(ground, generator))
    picture.paste(turned, place, turned)
    return picture.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)


def _colour(generator: np.random.Generator, *, saturation: tuple, value: tuple) -> tuple[int, int, int]:
    parts = colorsys.hsv_to_rgb(generator.uniform(), generator.uniform(*saturation), generator.uniform(*value))
    return tuple(int(255 * part) for part in parts)


def _lit(colour: tuple[int, int, int], generator: np.random.Generator) -> np.ndarray:
    """A background of one colour, brighter to one side, with a little noise: uint8 [SIDE, SIDE, 3]."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle = generator.uniform(0, 2 * np.pi)
    light = 1 + 0.2 * (x * np.cos(angle) + y * np.sin(angle)) + 0.03 * generator.standard_normal((SIDE, SIDE))
    return np.clip(light[..., None] * np.array(colour), 0, 255).astype(np.uint8)


def _cup(pen: ImageDraw.ImageDraw, ink: tuple, generator: np.random.Generator) -> None:
    left, top, right, low = 45, int(generator.uniform(45, 65)), 110, 130
    shrink = int(generator.uniform(0, 14))
    pen.polygon([(left, top), (right, top), (right - shrink, low), (left + shrink, low)], fill=ink)
    pen.arc([right - 18, top + 12, right + 26, low - 24], -100, 100, fill=ink, width=9)
    pen.ellipse([left, top - 8, right, top + 8], fill=tuple(min(255, part + 70) for part in ink))


def _leaf(pen: ImageDraw.ImageDraw, ink: tuple, generator: np.random.Generator) -> None:
    width = generator.uniform(22, 36)
    along = np.linspace(0, np.pi, 30)
    tall = 150 - 115 * along / np.pi
    side = width * np.sin(along) ** 0.8
    pen.polygon([*zip(84 - side, tall, strict=True), *zip((84 + side)[::-1], tall[::-1], strict=True)], fill=ink)
    pale = tuple(min(255, part + 60) for part in ink)
    pen.line([(84, 160), (84, 45)], fill=pale, width=4)
    for height in (70, 92, 114):
        for sign in (-1, 1):
            pen.line([(84, height + 14), (84 + sign * 0.6 * width, height)], fill=pale, width=3)


def _key(pen: ImageDraw.ImageDraw, ink: tuple, generator: np.random.Generator) -> None:
    size = int(generator.uniform(20, 28))
    pen.ellipse([84 - size, 52 - size, 84 + size, 52 + size], outline=ink, width=11)
    pen.rectangle([79, 52 + size - 4, 90, 146], fill=ink)
    for top in generator.permutation([104, 120, 134])[: int(generator.integers(2, 4))]:
        pen.rectangle([90, int(top), 108, int(top) + 8], fill=ink)


SHAPES: dict[str, Callable[[ImageDraw.ImageDraw, tuple, np.random.Generator], None]] = {
    "cup": _cup,
    "key": _key,
    "leaf": _leaf,
}
