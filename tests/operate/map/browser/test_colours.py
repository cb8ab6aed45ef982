"""Cells can be told apart by people who see other colours, or none.

What somebody with no working cone of a kind sees is computed with the matrices of Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency" (IEEE TVCG 15(6), 2009), of severity 1, on linear
RGB.
How different two colours look is their distance in CIELAB, where 2.3 is just noticeable.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest

VISIONS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)
APART = 15.0  # more than six times what is just noticeable
GANGS = 24
STATES: dict[str, Any] = {
    "free": "free",
    "held": {"state": "held", "gang": "g0"},
    "shared": {"state": "shared", "uses": [{"gang": "", "share": 0.5}]},
    "others": "others",
    "left out": "left_out",
    "faulty": {"state": "unhealthy", "sick": "XID 79"},
    "kept": "kept",
}
DRAWN = """async ([cells, size, count]) => {
  // Each cell's pixels, drawn as on the map; and how so many gangs look.
  const racks = await import(new URL("racks.js", document.baseURI)), gangs = new racks.Gangs(), pixels = {};
  gangs.update(new Set(Array.from({length: count}, (_, at) => `g${at}`)));
  const colours = racks.palette();
  for (const [name, raw] of Object.entries(cells)) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    const context = canvas.getContext("2d");
    context.fillStyle = colours.rack;
    context.fillRect(0, 0, size, size);
    racks.cell(context, raw, 0, 0, size, gangs, colours, false);
    pixels[name] = [...context.getImageData(0, 0, size, size).data];
  }
  return {pixels, looks: Array.from({length: count}, (_, at) => gangs.look(`g${at}`))};
}"""
Colour = tuple[float, float, float]


def linear(rgb: tuple[int, int, int]) -> Colour:
    def one(value: int) -> float:
        part = value / 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = rgb
    return one(red), one(green), one(blue)


def times(matrix: tuple[Colour, ...], colour: Colour) -> Colour:
    first, second, third = (min(1.0, max(0.0, sum(m * c for m, c in zip(row, colour, strict=True)))) for row in matrix)
    return first, second, third


def lab(colour: Colour) -> Colour:
    def one(value: float) -> float:
        return value ** (1 / 3) if value > (6 / 29) ** 3 else value / (3 * (6 / 29) ** 2) + 4 / 29

    xyz = (sum(m * c for m, c in zip(row, colour, strict=True)) for row in XYZ)
    x, y, z = (one(value / white) for value, white in zip(xyz, WHITE, strict=True))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def apart(one: Colour, other: Colour, vision: str) -> float:
    seen = [lab(times(VISIONS[vision], colour)) for colour in (one, other)]
    return math.dist(*seen)


def of_hex(text: str) -> Colour:
    return linear((int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)))


def greys(pixels: list[int]) -> list[float]:
    """The luminance of each pixel: all that somebody has who sees no colours."""
    return [times(XYZ, linear((pixels[at], pixels[at + 1], pixels[at + 2])))[1] for at in range(0, len(pixels), 4)]


def differ(one: list[float], other: list[float], contrast: float) -> float:
    """The part of a cell's pixels of which one is so much lighter than the other."""
    far = [(max(a, b) + 0.05) / (min(a, b) + 0.05) >= contrast for a, b in zip(one, other, strict=True)]
    return sum(far) / len(far)


def test_the_sight_that_is_computed_is_what_the_paper_has() -> None:
    for vision, matrix in VISIONS.items():
        assert all(abs(sum(row) - 1) < 1e-5 for row in matrix), f"{vision}: greys stay as they are"
    red, green = of_hex("#b00000"), of_hex("#505000")
    assert apart(red, green, "usual") > 3 * apart(red, green, "protanopia")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_states_differ_without_any_colour(page: Any, scheme: str) -> None:
    """By shape, to somebody who sees no colours at all: of each two cells some pixels are clearly lighter in one."""
    page.emulate_media(color_scheme=scheme)
    for size in (6, 9, 14, 24):
        drawn = page.evaluate(DRAWN, [STATES, size, 1])["pixels"]
        grey = {name: greys(pixels) for name, pixels in drawn.items()}
        for one, other in combinations(STATES, 2):
            found = differ(grey[one], grey[other], 1.4)
            assert found >= 0.06, (size, one, other)


def test_gangs_differ_by_what_everybody_sees(page: Any) -> None:
    """Of the first gangs any two have other patterns, or colours that are apart for each kind of sight."""
    cells = {str(at): {"state": "held", "gang": f"g{at}"} for at in range(GANGS)}
    drawn = page.evaluate(DRAWN, [cells, 9, GANGS])
    for (at, one), (to, other) in combinations(enumerate(drawn["looks"]), 2):
        if one["pattern"] == other["pattern"]:
            for vision in VISIONS:
                found = apart(of_hex(one["colour"]), of_hex(other["colour"]), vision)
                assert found >= APART, (vision, one, other, found)
        elif one["colour"] == other["colour"]:
            grey = greys(drawn["pixels"][str(at)]), greys(drawn["pixels"][str(to)])
            assert differ(*grey, 1.2) >= 0.1, (one, other)
    assert len({(look["colour"], look["pattern"]) for look in drawn["looks"]}) == GANGS
