"""Make the glyphs data set: characters of the world's scripts, rendered from open fonts and distorted like handwriting.

    python data/make_glyphs.py /usr/share/fonts/truetype/noto

The argument is a folder with the Noto fonts (Debian: packages fonts-noto-core and fonts-noto-extra). The sheets, their
index and a contact sheet are written to data/glyphs. The same fonts and the same Pillow give the same bytes; the index
records both. It takes some minutes on one core. Needs fonttools (`pip install "mlcourse[data]"`).

How a class comes to be: list the letters of each script (SCRIPTS), render each in every face, drop near-twins, draw 20
samples of each that is left, drop those that became near-twins, find the classes that may be rotated.
data/glyphs/README.md explains why.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import math
import platform
import random
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFilter, ImageFont, __version__, features

from mlcourse import files
from mlcourse.datasets.glyphs import SAMPLES, SIZE
from mlcourse.errors import CourseError

# In order of priority: of two near-twins, the one of the earlier script stays. So test keeps its letters, then val.
# Families after the script's name: "Thai" stands for NotoSansThai and NotoSerifThai, "=LoopedThai" for NotoLoopedThai.
# Ranges are code points, both ends included. Left out: Cherokee, which took the shapes of Latin letters in a style of
# its own that no measure of likeness sees through; Rashi Hebrew, Nastaliq and the regional Tifinagh fonts, whose
# letters have other shapes under the same code; the Display cuts, whose hairlines vanish at 28 pixels.
EUROPEAN = "=Sans =Serif =SansMono"
SCRIPTS = {
    "Latin": (EUROPEAN, "0041-005A 0061-007A 00C6 00D0 00D8 00DE 00DF 00E6 00F0 00F8 00FE"),
    "Digits": (EUROPEAN, "0030-0039"),
    "Greek": (EUROPEAN, "0391-03A9 03B1-03C9"),
    "Cyrillic": (EUROPEAN, "0410-042F 0430-044F 0402-040B 0452-045B 0460-0481"),
    "Ethiopic": ("Ethiopic", "1200-1357"),
    "Gurmukhi": ("Gurmukhi", "0A05-0A39"),
    "Kannada": ("Kannada", "0C85-0CB9"),
    "Malayalam": ("Malayalam", "0D05-0D39"),
    "Meetei_Mayek": ("MeeteiMayek", "ABC0-ABE2"),
    "Oriya": ("Oriya", "0B05-0B39"),
    "Tibetan": ("Tibetan", "0F40-0F6C"),
    "Lisu": ("Lisu", "A4D0-A4F7"),
    "Coptic": ("Coptic", "2C80-2CB1"),
    "Armenian": ("Armenian", "0531-0556 0561-0587"),
    "Bengali": ("Bengali", "0985-09B9"),
    "Georgian": ("Georgian", "10A0-10C5 10D0-10F0"),
    "Hebrew": ("Hebrew", "05D0-05EA"),
    "Kayah_Li": ("KayahLi", "A90A-A925"),
    "Ol_Chiki": ("OlChiki", "1C5A-1C77"),
    "Adlam": ("Adlam AdlamUnjoined", "1E900-1E943"),
    "Arabic": ("=NaskhArabic Arabic =KufiArabic", "0621-063A 0641-064A 0671-06D3"),
    "Balinese": ("Balinese", "1B05-1B33"),
    "Bamum": ("Bamum", "A6A0-A6E5"),
    "Canadian_Aboriginal": ("CanadianAboriginal", "1401-1676"),
    "Cham": ("Cham", "AA00-AA28"),
    "Devanagari": ("Devanagari", "0904-0939"),
    "Gujarati": ("Gujarati", "0A85-0AB9"),
    "Hanifi_Rohingya": ("HanifiRohingya", "10D00-10D23"),
    "Khmer": ("Khmer", "1780-17B3"),
    "Lao": ("Lao =LoopedLao", "0E81-0EAE"),
    "Medefaidrin": ("Medefaidrin", "16E40-16E7F"),
    "Myanmar": ("Myanmar", "1000-1029"),
    "Nyiakeng_Puachue_Hmong": ("NyiakengPuachueHmong", "1E100-1E12C"),
    "Sinhala": ("Sinhala", "0D85-0DC6"),
    "Sora_Sompeng": ("SoraSompeng", "110D0-110E8"),
    "Sundanese": ("Sundanese", "1B83-1BA0"),
    "Tai_Tham": ("TaiTham", "1A20-1A54"),
    "Tamil": ("Tamil TamilSlanted", "0B85-0BB9"),
    "Telugu": ("Telugu", "0C05-0C39"),
    "Thaana": ("Thaana", "0780-07A5"),
    "Thai": ("Thai =LoopedThai", "0E01-0E2E"),
    "Yezidi": ("Yezidi", "10E80-10EA9"),
}
CAPITALS_ONLY = ("Adlam", "Coptic", "Medefaidrin")  # their small letters are the capitals, smaller
# Of each style, every family comes once before the next style: the first faces differ most.
STYLES = (
    *("Regular", "Bold", "Light", "Black", "Condensed", "Thin", "ExtraCondensed", "CondensedBold", "CondensedLight"),
    *("Italic", "BoldItalic", "LightItalic", "Medium", "SemiBold", "ExtraLight", "ExtraBold", "SemiCondensed"),
    *("CondensedBlack", "ExtraCondensedBold", "SemiCondensedLight"),
)
AT_MOST = 60  # letters of one script: more would let a syllabary rule the data set

FINE = 112  # pixels of the working canvas: four for each pixel of a sample
BOX = 80  # longer side of a letter on it, 20 pixels of a sample
ROOM = 192  # a wider canvas for distortions, so that nothing is cut off
GRID = 12  # the distortion is exact on a grid of GRID × GRID cells and bilinear inside a cell

TWIN_PRINTED = 0.93  # likeness of two printed forms in any two faces, above which only one class stays
TWIN_SAMPLED = 0.94  # the same of means and samples; the tests demand 0.95 and measure with their own code


@dataclass
class Letter:
    """A class in the making."""

    script: str
    character: str
    name: str
    printed: list[Image.Image]  # one per face, ink = 255, cropped
    samples: list[Image.Image]  # SAMPLES pictures of SIZE×SIZE
    rotates: bool = False


def faces_of(script: str, fonts: Path) -> list[Path]:
    """Up to 20 font files of a script, the most different ones first."""
    families = []
    for family in SCRIPTS[script][0].split():
        families += [f"Noto{family[1:]}"] if family[0] == "=" else [f"NotoSans{family}", f"NotoSerif{family}"]
    paths = [fonts / f"{family}-{style}.ttf" for style in STYLES for family in families]
    found = [path for path in paths if path.is_file()][:SAMPLES]
    if not found:
        raise CourseError(
            f"no font for {script} in {fonts}: install fonts-noto-core and fonts-noto-extra, or name their folder"
        )
    return found


def letters_of(script: str, faces: list[Path]) -> list[str]:
    """The letters (for Digits: digits) of the script's ranges that every face holds; at most AT_MOST, evenly spaced.

    Characters with a canonical decomposition are left out (another letter with a mark), and so are the finals of the
    Canadian syllabics (small marks after a syllable).
    """
    covered = set.intersection(*(_covered(face) for face in faces))
    kinds = ["Nd"] if script == "Digits" else ["Lu"] if script in CAPITALS_ONLY else ["Lo", "Lu", "Ll"]
    found = []
    for span in SCRIPTS[script][1].split():
        low, _, high = span.partition("-")
        found += [chr(code) for code in range(int(low, 16), int(high or low, 16) + 1) if code in covered]
    found = [one for one in found if unicodedata.category(one) in kinds and not unicodedata.decomposition(one)]
    if script == "Canadian_Aboriginal":
        found = [one for one in found if "FINAL" not in unicodedata.name(one)]
    count = min(len(found), AT_MOST)
    return [found[i * len(found) // count] for i in range(count)]


@functools.cache
def _covered(face: Path) -> set[int]:
    with TTFont(face, lazy=True) as font:
        return {code for code, glyph in font.getBestCmap().items() if glyph != ".notdef"}


def name_of(script: str, character: str) -> str:
    """A short name that is unique in its script: "capital ayb" of ARMENIAN CAPITAL LETTER AYB."""
    words = unicodedata.name(character).lower().replace("canadian syllabics", "canadian_aboriginal").split()
    skipped = {*script.lower().split("_"), script.lower(), "letter", "syllable", "digit", "meetei", "mayek"}
    return " ".join(word for word in words if word not in skipped)


def render(face: Path, character: str) -> Image.Image:
    """The printed form, cropped to its ink. A missing or empty glyph is an error: no box ever enters the data."""
    glyph = _ink_of(face, character)
    if ord(character) not in _covered(face) or _same(glyph, _missing(face)):
        raise CourseError(f"{face.name} has no glyph for U+{ord(character):04X}: leave the letter out")
    if glyph is None:
        raise CourseError(f"{face.name} draws U+{ord(character):04X} empty or outside the page: leave the letter out")
    return glyph


@functools.cache
def _missing(face: Path) -> Image.Image | None:
    """What the font draws for a code that no font has (a non-character): the box that must not enter the data."""
    return _ink_of(face, "\U0001ffff")


def _ink_of(face: Path, character: str) -> Image.Image | None:
    """The glyph cropped to its ink; None when it is empty or runs off the page."""
    page = Image.new("L", (4 * FINE, 4 * FINE), 0)
    ImageDraw.Draw(page).text((FINE, FINE), character, fill=255, font=_font(face))
    box = page.getbbox()
    return None if box is None or min(box) == 0 or max(box) == 4 * FINE else page.crop(box)


@functools.cache
def _font(face: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(face), FINE, layout_engine=ImageFont.Layout.BASIC)


def _same(one: Image.Image | None, other: Image.Image | None) -> bool:
    return one is not None and other is not None and one.size == other.size and one.tobytes() == other.tobytes()


def centred(glyph: Image.Image, side: int, canvas: int) -> Image.Image:
    """Scaled so that the longer side is `side`, in the middle of a square canvas."""
    scale = side / max(glyph.size)
    size = tuple(max(1, round(length * scale)) for length in glyph.size)
    page = Image.new("L", (canvas, canvas), 0)
    page.paste(
        glyph.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC),
        ((canvas - size[0]) // 2, (canvas - size[1]) // 2),
    )
    return page


class Dice:
    """Random numbers of one sample. Python promises that Random(text).random() never changes between versions."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random.random()


def draw_sample(glyph: Image.Image, dice: Dice) -> Image.Image:
    """A SIZE×SIZE sample like handwriting: other stroke width, affine and elastic distortion, other size and place."""
    page = _warped(_restroked(centred(glyph, BOX, ROOM), dice), dice)
    box = page.point(lambda value: 255 * (value > 40)).getbbox()
    if min(box) == 0 or max(box) == ROOM:
        raise CourseError(f"a distorted letter leaves the canvas of {ROOM} pixels: make ROOM larger")
    letter = page.crop(box)
    scale = min(FINE - 8, max(letter.size) * dice.between(0.85, 1.15)) / max(letter.size)
    size = tuple(max(1, round(length * scale)) for length in letter.size)
    corner = []
    for length in size:
        free = FINE - length
        corner.append(round(min(max(free / 2 + dice.between(-12, 12), 4), free - 4)))
    canvas = Image.new("L", (FINE, FINE), 0)
    canvas.paste(letter.resize(size, Image.Resampling.BILINEAR), tuple(corner))
    return _finished(canvas)


def _restroked(page: Image.Image, dice: Dice) -> Image.Image:
    """Thinner in 30 % of the cases, thicker in 35 %. A stroke that thinning would break stays as it is."""
    choice, strong = dice.between(0, 1), dice.between(0, 1)
    if choice < 0.3:
        thin = page.filter(ImageFilter.MinFilter(3))
        reopened = thin.filter(ImageFilter.MaxFilter(3))
        return thin if _ink(reopened) > 0.97 * _ink(page) else page
    if choice > 0.65:
        return page.filter(ImageFilter.MaxFilter(3 if strong < 0.6 else 5))
    return page


def _ink(page: Image.Image) -> int:
    return sum(page.histogram()[128:])


def _warped(page: Image.Image, dice: Dice) -> Image.Image:
    """Turned, sheared, stretched and bent. Corners are rounded to 1/8 pixel, so that no last digit of sin() matters."""
    angle, shear = math.radians(dice.between(-14, 14)), dice.between(-0.22, 0.22)
    wide, high = 1 + dice.between(-0.2, 0.2), 1 + dice.between(-0.2, 0.2)
    waves = [[dice.between(-1, 1) for _ in range(5)] for _ in range(4)]
    cos, sin, middle = math.cos(angle), math.sin(angle), ROOM / 2

    def source(x: float, y: float) -> tuple[float, float]:
        bent_x, bent_y = x - middle, y - middle
        for across, down, phase, push_x, push_y in waves:
            turn = 2 * math.pi * (across * x + down * y) / 110 + math.pi * phase
            bent_x += 5 * push_x * math.sin(turn)
            bent_y += 5 * push_y * math.sin(turn + 1)
        turned_x, turned_y = (cos * bent_x + sin * bent_y) / wide, (cos * bent_y - sin * bent_x) / high
        return round(8 * (middle + turned_x + shear * turned_y)) / 8, round(8 * (middle + turned_y)) / 8

    step = ROOM // GRID
    node = [[source(i * step, j * step) for j in range(GRID + 1)] for i in range(GRID + 1)]
    cells = [(i, j) for i in range(GRID) for j in range(GRID)]
    mesh = [
        (
            (i * step, j * step, (i + 1) * step, (j + 1) * step),
            (*node[i][j], *node[i][j + 1], *node[i + 1][j + 1], *node[i + 1][j]),
        )
        for i, j in cells
    ]
    return page.transform(page.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _finished(canvas: Image.Image) -> Image.Image:
    """Scaled down by four, the darkest pixel full ink, 16 levels of grey (small files)."""
    small = canvas.reduce(FINE // SIZE)
    most = small.getextrema()[1]
    return small.point(lambda value: 17 * min(15, (15 * value + most // 2) // most))


def sample_letter(letter: Letter) -> list[Image.Image]:
    """SAMPLES pictures: first the printed form in the plainest face, then every face in turn, each distorted anew."""
    code = f"{letter.script}/{ord(letter.character):04X}"
    return [_finished(centred(letter.printed[0], BOX, FINE))] + [
        draw_sample(letter.printed[k % len(letter.printed)], Dice(f"{code}/{k}")) for k in range(1, SAMPLES)
    ]


def make_letters(script: str, fonts: Path) -> list[Letter]:
    """The candidates of a script, printed in every face, not yet sampled."""
    faces = faces_of(script, fonts)
    return [
        Letter(script, one, name_of(script, one), [render(face, one) for face in faces], [])
        for one in letters_of(script, faces)
    ]


def aligned(pictures: list[Image.Image]) -> torch.Tensor:
    """Cropped, longer side 20, centred, mean 0, norm 1: float32 [pictures, 784]. A product is a correlation."""
    crops = [picture.crop(picture.point(lambda value: 255 * (value > 60)).getbbox()) for picture in pictures]
    return _normed(torch.from_numpy(np.stack([np.asarray(centred(crop, 20, SIZE)) for crop in crops])))


def _normed(pictures: torch.Tensor) -> torch.Tensor:
    flat = pictures.float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True)


def likeness(rows: list[torch.Tensor], quarter: int = 0) -> torch.Tensor:
    """[classes, classes]: the largest correlation between any picture of one, turned, and any picture of the other."""
    owner = torch.cat([torch.full((len(row),), i) for i, row in enumerate(rows)])
    everything = torch.cat(rows).T.contiguous()
    best = torch.zeros(len(rows), len(rows))
    for i, row in enumerate(rows):
        turned = torch.rot90(row.view(-1, SIZE, SIZE), quarter, (1, 2)).flatten(1)
        best[i].scatter_reduce_(0, owner, (turned @ everything).amax(0), "amax")
    return best


def mean_rows(letters: list[Letter]) -> list[torch.Tensor]:
    """The mean of the aligned samples of each class, normed anew."""
    return [_normed(aligned(letter.samples).mean(0, keepdim=True)) for letter in letters]


def without_twins(letters: list[Letter], alike: torch.Tensor) -> list[Letter]:
    """Go through the letters in order; keep one unless it is a twin of one that was kept."""
    kept: list[int] = []
    for i in range(len(letters)):
        if not kept or not bool(alike[i, kept].any()):
            kept.append(i)
    return [letters[i] for i in kept]


def mark_rotating(letters: list[Letter]) -> None:
    """A class may turn if none of its turned pictures is like any class, itself included."""
    printed = [aligned(letter.printed) for letter in letters]
    means, samples = mean_rows(letters), [aligned(letter.samples) for letter in letters]
    like_one = torch.zeros(len(letters), dtype=torch.bool)
    for quarter in (1, 2):
        alike = likeness(printed, quarter) > TWIN_PRINTED
        alike |= likeness(means, quarter) > TWIN_SAMPLED
        alike |= likeness(samples, quarter) > TWIN_SAMPLED
        # One turned by 90 degrees is like the other: then the other turned by 270 is like the one.
        like_one |= alike.any(1) | alike.any(0)
    for letter, same in zip(letters, like_one.tolist(), strict=True):
        letter.rotates = not same


def sheet_of(letters: list[Letter]) -> bytes:
    """The PNG of a script: a row for each letter, a column for each sample."""
    sheet = Image.new("L", (SAMPLES * SIZE, len(letters) * SIZE))
    for row, letter in enumerate(letters):
        for column, sample in enumerate(letter.samples):
            sheet.paste(sample, (column * SIZE, row * SIZE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def contact_sheet(letters: list[Letter]) -> bytes:
    """One line for each script: 12 of its letters as printed, then 12 samples of one of them. Dark on white."""
    scripts = sorted({letter.script for letter in letters})
    label, font = 200, ImageFont.load_default(12)
    page = Image.new("L", (label + 25 * SIZE, len(scripts) * (SIZE + 4)), 255)
    for line, script in enumerate(scripts):
        own = [letter for letter in letters if letter.script == script]
        top = line * (SIZE + 4) + 2
        ImageDraw.Draw(page).text((4, top + 7), f"{script} ({len(own)})", fill=0, font=font)
        shown = (
            [own[i * len(own) // 12].samples[0] for i in range(12)]
            if len(own) >= 12
            else [one.samples[0] for one in own]
        )
        for column, picture in enumerate(shown):
            page.paste(picture.point(lambda value: 255 - value), (label + column * SIZE, top))
        for column, picture in enumerate(own[len(own) // 2].samples[1:13]):
            page.paste(picture.point(lambda value: 255 - value), (label + (13 + column) * SIZE, top))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def made_with() -> dict[str, str]:
    """What the bytes depend on besides fonts and this script."""
    return {"pillow": __version__, "freetype": features.version("freetype2") or "", "machine": platform.machine()}


def index_of(letters: list[Letter], fonts: Path) -> dict:
    """What the loader needs to know, and what the pictures were made from."""
    scripts: dict[str, list] = {}
    for letter in letters:
        entry = {"name": letter.name, "character": letter.character, "rotates": letter.rotates}
        scripts.setdefault(letter.script, []).append(entry)
    faces = {script: faces_of(script, fonts) for script in scripts}
    return {
        "made_with": made_with(),
        "scripts": scripts,
        "fonts": {
            script: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
            for script, paths in faces.items()
        },
    }


def write(letters: list[Letter], fonts: Path, out: Path) -> None:
    """Sheets first, the index last: the loader reads the index."""
    out.mkdir(parents=True, exist_ok=True)
    pages = {f"{script}.png": sheet_of([one for one in letters if one.script == script]) for script in SCRIPTS}
    for name, page in {**pages, "contact_sheet.png": contact_sheet(letters)}.items():
        with files.replacing(out / name) as temporary:
            temporary.write_bytes(page)
    files.write_json(out / "index.json", index_of(letters, fonts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fonts", type=Path, help="folder with the Noto fonts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "glyphs", help="default: data/glyphs")
    options = parser.parse_args()
    letters = [letter for script in SCRIPTS for letter in make_letters(script, options.fonts)]
    print(f"{len(letters)} letters of {len(SCRIPTS)} scripts in every face")
    letters = without_twins(letters, likeness([aligned(letter.printed) for letter in letters]) > TWIN_PRINTED)
    print(f"{len(letters)} without near-twins in print")
    for letter in letters:
        letter.samples = sample_letter(letter)
    alike = likeness([aligned(letter.samples) for letter in letters]) > TWIN_SAMPLED
    alike |= likeness(mean_rows(letters)) > TWIN_SAMPLED
    letters = without_twins(letters, alike)
    print(f"{len(letters)} without near-twins among samples and means")
    mark_rotating(letters)
    print(f"{sum(letter.rotates for letter in letters)} may rotate")
    write(letters, options.fonts, options.out)


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(f"error: {error}")
