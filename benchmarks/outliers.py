"""Photos that show neither a cat nor a dog, for training the embedded model again: OUT/{train,val,test}/neither/.

    python benchmarks/outliers.py 101_ObjectCategories raccoon_dataset/images OUT

The first two are folders of Caltech-101 and of the public repository datitran/raccoon_dataset. Validation and test get
categories of their own, so that they ask about kinds of things that training never showed. Pictures that nobody took
(blanks, gradients, noise, stripes, shapes, text) are drawn here.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WITH_PETS = {"BACKGROUND_Google", "dalmatian", "garfield", "snoopy", "wild_cat"}
VALIDATION = {
    "airplanes",
    "beaver",
    "bonsai",
    "brain",
    "cougar_face",
    "crab",
    "dolphin",
    "grand_piano",
    "helicopter",
    "okapi",
    "rooster",
    "scissors",
    "soccer_ball",
    "sunflower",
    "windsor_chair",
}
TEST = {
    "accordion",
    "buddha",
    "camera",
    "chair",
    "cougar_body",
    "cup",
    "ferry",
    "hedgehog",
    "kangaroo",
    "lamp",
    "laptop",
    "lotus",
    "panda",
    "stegosaurus",
    "umbrella",
    "watch",
    "yin_yang",
}
ANIMALS = {
    "Leopards",
    "ant",
    "bass",
    "beaver",
    "brontosaurus",
    "butterfly",
    "cougar_face",
    "crab",
    "crayfish",
    "crocodile",
    "crocodile_head",
    "dolphin",
    "dragonfly",
    "elephant",
    "emu",
    "flamingo",
    "flamingo_head",
    "gerenuk",
    "hawksbill",
    "ibis",
    "llama",
    "lobster",
    "mayfly",
    "nautilus",
    "octopus",
    "okapi",
    "pigeon",
    "platypus",
    "rhino",
    "rooster",
    "scorpion",
    "sea_horse",
    "starfish",
    "tick",
    "trilobite",
}
MOST_ANIMALS, MOST_OTHERS = 400, 70  # photos of a category: what is like a pet matters more than a thousand airplanes
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
]


def copy_caltech(source: Path, out: Path) -> None:
    """Copy the categories, each into the split that it belongs to."""
    for folder in sorted(source.iterdir()):
        name = folder.name
        if not folder.is_dir() or name in WITH_PETS:
            continue
        split = "test" if name in TEST else "val" if name in VALIDATION else "train"
        path = f"101_ObjectCategories/{name}"
        files = sorted(folder.iterdir(), key=lambda file: hashlib.sha256(f"{path}/{file.name}".encode()).hexdigest())
        for file in files[: MOST_ANIMALS if name in ANIMALS else MOST_OTHERS]:
            shutil.copy(file, make_place(out, split) / f"{name}_{file.name}")


def make_place(out: Path, split: str) -> Path:
    """Return the folder of a split, made where it is missing."""
    place = out / split / "neither"
    place.mkdir(parents=True, exist_ok=True)
    return place


def draw_pictures(dice: random.Random) -> Iterator[tuple[str, Image.Image]]:
    """Yield 360 pictures without anything in them that could be photographed."""
    noise = np.random.default_rng(dice.randrange(2**32))

    def colour() -> tuple[int, int, int]:
        return dice.randrange(256), dice.randrange(256), dice.randrange(256)

    for i in range(60):
        plain = [(0, 0, 0), (255, 255, 255), (128, 128, 128)]
        grey = (dice.randrange(256),) * 3
        size = dice.choice([64, 100, 200, 320]), dice.choice([64, 100, 200, 320])
        yield "plain", Image.new("RGB", size, plain[i] if i < 3 else grey if i % 2 else colour())
    for _ in range(50):
        start, end, way = np.array(colour()), np.array(colour()), np.linspace(0, 1, 200)[:, None]
        ramp = np.tile((start + (end - start) * way)[None], (200, 1, 1)).astype(np.uint8)
        yield "gradient", Image.fromarray(ramp).rotate(dice.choice([0, 90, 180]))
    for i in range(70):
        side = dice.choice([4, 8, 16, 32, 100, 200])
        pixels = noise.integers(0, 256, (side, side, 3 if i % 2 else 1)).astype(np.uint8)
        picture = Image.fromarray(np.broadcast_to(pixels, (side, side, 3)).copy()).resize(
            (200, 200), dice.choice([0, 2])
        )
        yield "noise", picture.filter(ImageFilter.GaussianBlur(dice.uniform(0, 4))) if i % 3 == 0 else picture
    for i in range(50):
        y, x = np.mgrid[:200, :200]
        frequency, angle = dice.uniform(0.02, 0.5), dice.uniform(0, np.pi)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * frequency)
        if i % 2:
            wave = np.sign(wave) * np.sign(np.sin((y * np.cos(angle) - x * np.sin(angle)) * frequency))
        start, end = np.array(colour()), np.array(colour())
        yield "stripes", Image.fromarray((start + (end - start) * ((wave + 1) / 2)[..., None]).astype(np.uint8))
    for _ in range(60):
        picture = Image.new("RGB", (240, dice.choice([160, 240, 320])), colour())
        draw = ImageDraw.Draw(picture)
        for _ in range(dice.randrange(1, 25)):
            left, top = dice.randrange(240), dice.randrange(240)
            box = (left, top, left + dice.randrange(5, 150), top + dice.randrange(5, 150))
            (draw.ellipse if dice.random() < 0.5 else draw.rectangle)(box, fill=colour())
        yield "shapes", picture
    for _ in range(70):
        picture = Image.new("RGB", (320, 240), dice.choice([(255, 255, 255), colour()]))
        draw, height = ImageDraw.Draw(picture), dice.choice([10, 14, 20, 36, 60])
        font, ink = ImageFont.load_default(height), dice.choice([(0, 0, 0), colour()])
        for top in range(5, 240, height + 4):
            draw.text((5, top), " ".join(dice.choices(WORDS, k=12)), fill=ink, font=font)
        yield "text", picture


def main() -> None:
    """Copy and draw everything."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    caltech, raccoons, out = map(Path, sys.argv[1:])
    copy_caltech(caltech, out)
    for file in sorted(raccoons.iterdir()):
        shutil.copy(file, make_place(out, "train") / f"raccoon_{file.name}")
    for number, (kind, picture) in enumerate(draw_pictures(random.Random(5))):
        split = {4: "val", 5: "test"}.get(number % 6, "train")
        picture.save(make_place(out, split) / f"drawn_{kind}_{number:03}.png")


if __name__ == "__main__":
    main()
