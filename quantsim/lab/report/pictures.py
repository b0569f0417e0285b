"""Figures for a page in 256 colours, smaller than their PNG, and small previews for readers without scripts.

A page shows pixels, not the SVG: a browser keeps every curve and letter of each SVG that it has shown, some 0.6 GB once
all figures were seen.
"""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

#: Pixels of a figure's file for each pixel of the page: 200 dots an inch beside 96.
DENSITY = 200 / 96
#: Colours of a figure.
COLOURS = 256
#: Width in pixels of a preview; quality of its compression.
PREVIEW, QUALITY = 648, 30
#: Most rows of pixels on a sheet, of the 16383 that WebP has.
SHEET = 16000


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure: width and height on the page, its pixels as WebP, and its preview."""

    width: int
    height: int
    data: bytes
    preview: Any


@dataclass(frozen=True)
class Spot:
    """Where a preview lies: which sheet, how far down it in percent of what can be scrolled, and its height."""

    sheet: int
    percent: float
    height: int


def pictures(paths: Sequence[Path]) -> list[Picture]:
    """The figures in these PNG files.

    Raises:
        ValueError: for a file that is no picture, or only a part of one.
    """
    with ThreadPoolExecutor() as threads:
        return list(threads.map(_picture, paths))


def _read(path: Path) -> Image.Image:
    """A picture on white."""
    try:
        with Image.open(path) as file:
            drawn = Image.new("RGB", file.size, "white")
            drawn.paste(file, mask=file.getchannel("A") if "A" in file.getbands() else None)
    except (OSError, SyntaxError) as why:  # as Pillow says that a file is damaged
        raise ValueError(f"{path} cannot be read as a picture ({why}): `quantsim run {path.stem}` draws it") from why
    return drawn


def _picture(path: Path) -> Picture:
    drawn = _read(path)
    width, height = (round(n / DENSITY) for n in drawn.size)
    # No channel of a pixel moves by more than about 16 of 255, and files are a fifth smaller than with all colours.
    few = drawn.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).convert("RGB")
    return Picture(width, height, _webp(few, lossless=True, quality=80), _preview(drawn, width))


def _preview(drawn: Image.Image, width: int) -> Image.Image:
    """A picture in at most the width of a sheet, on white where it is narrower."""
    wide = min(width, PREVIEW)
    small = drawn.resize((wide, round(drawn.height * wide / drawn.width)), Image.Resampling.LANCZOS)
    if wide == PREVIEW:
        return small
    sheet = Image.new("RGB", (PREVIEW, small.height), "white")
    sheet.paste(small)
    return sheet


def previews_style(seen: Mapping[str, Picture]) -> str:
    """The style that shows previews of pictures where scripts are off; one sheet of pixels serves many pictures."""
    pages, spots = sheets([picture.preview for picture in seen.values()])
    rules = []
    for at, data in enumerate(pages):
        those = ",".join(f"#preview-{name}" for name, spot in zip(seen, spots, strict=True) if spot.sheet == at)
        rules.append(f"{those}{{background-image:url(data:image/webp;base64,{b64encode(data).decode()})}}")
    for name, spot in zip(seen, spots, strict=True):
        rules.append(f"#preview-{name}{{aspect-ratio:{PREVIEW}/{spot.height};background-position:0 {spot.percent}%}}")
    return "\n".join(rules)


def sheets(previews: Sequence[Any]) -> tuple[list[bytes], list[Spot]]:
    """Previews below each other on as few sheets as hold them, and the spot of each."""
    groups: list[list[Any]] = []
    for preview in previews:
        if not groups or sum(p.height for p in groups[-1]) + preview.height > SHEET:
            groups.append([])
        groups[-1].append(preview)
    spots: list[Spot] = []
    pages: list[bytes] = []
    for at, group in enumerate(groups):
        page, top = Image.new("RGB", (PREVIEW, sum(p.height for p in group)), "white"), 0
        for preview in group:
            page.paste(preview, (0, top))
            percent = 100 * top / max(page.height - preview.height, 1)
            spots.append(Spot(at, round(percent, 5), preview.height))
            top += preview.height
        pages.append(_webp(page, quality=QUALITY))
    return pages, spots


def _webp(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", method=4, **options)
    return file.getvalue()
