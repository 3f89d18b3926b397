"""Pictures and captions of the in-box model: Noto emoji, fetched from npm with the ordinary client.

`fetch` unpacks the package once; `load` returns every picture composited on white with the captions
it may be drawn by. Skin-tone variants (half of the package) serve the autoencoder only: they would
double the transformer's work for pictures that differ by a hue.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PACKAGE = "emoji-datasource-google"
VERSION = "16.0.0"

# How often a category is drawn, relative to the others. Gestures and families, flags, keycaps and clocks are half of
# all pictures and look alike; what people ask for first is drawn oftener.
CATEGORY_WEIGHTS = {"People & Body": 0.3, "Flags": 0.4, "Symbols": 0.4, "Component": 0.1}
# Names in favourites.txt, one a line; together about twice as often as all others.
FAVOURITE_WEIGHT = 16.0
# What people call things that the package names otherwise. The vocabulary is made without them.
ALIASES = {
    "heavy black heart": "red heart",
    "watermelon": "slice of watermelon",
    "electric light bulb": "light bulb",
}


@dataclass(frozen=True, slots=True)
class EmojiData:
    """`pixels_NCHW`: uint8 pictures, 64 x 64, the captioned ones first; names, captions (names and what else people
    say) and weights are those of picture i; `favoured_weights` prefer favourites.txt.
    """

    pixels_NCHW: torch.Tensor
    names: list[list[str]]
    captions: list[list[str]]
    weights: torch.Tensor
    favoured_weights: torch.Tensor


def fetch(folder: Path) -> Path:
    """Unpack the npm package below `folder` unless it is there, and return the package's root."""
    root = folder / "package"
    if (root / "emoji.json").exists():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=folder, check=True)
    with tarfile.open(folder / f"{PACKAGE}-{VERSION}.tgz") as archive:
        wanted = [m for m in archive.getmembers() if m.name == "package/emoji.json" or "/google/64/" in m.name]
        archive.extractall(folder, members=wanted, filter="data")
    return root


def names_of(entry: dict[str, object]) -> list[str]:
    """Lower-case names of one emoji: the Unicode name and every short name, punctuation as spaces.

    >>> names_of({"name": "GRINNING FACE", "short_names": ["grinning"]})
    ['grinning face', 'grinning']
    """
    names = [str(entry["name"]), *(str(s) for s in entry["short_names"])]  # type: ignore[attr-defined]
    plain = (" ".join("".join(c if c.isalnum() else " " for c in name).split()).lower() for name in names)
    return list(dict.fromkeys(plain))


def captions_of(entry: dict[str, object]) -> list[str]:
    """Names, aliases, and "flag of ..." for flags.

    >>> captions_of({"name": "JAPAN FLAG", "short_names": ["jp"], "category": "Flags"})
    ['japan flag', 'jp', 'flag of japan']
    """
    names = names_of(entry)
    more = [ALIASES[name] for name in names if name in ALIASES]
    if entry.get("category") == "Flags" and names[0].endswith(" flag"):
        more.append("flag of " + names[0].removesuffix(" flag"))
    return list(dict.fromkeys(names + more))


def load(root: Path) -> EmojiData:
    """Read every Google picture of the unpacked package (about 3,786 of 64 x 64)."""
    entries = [e for e in json.loads((root / "emoji.json").read_text()) if e["has_img_google"]]
    entries.sort(key=lambda e: e["image"])
    images = [e["image"] for e in entries]
    variants = [v["image"] for e in entries for v in e.get("skin_variations", {}).values() if v["has_img_google"]]
    pixels = np.stack([_on_white(root / "img/google/64" / name) for name in (*images, *sorted(variants))])
    names = [names_of(entry) for entry in entries]
    captions = [captions_of(entry) for entry in entries]
    weights = torch.tensor([CATEGORY_WEIGHTS.get(entry["category"], 1.0) for entry in entries])
    favourites = set((Path(__file__).parent / "favourites.txt").read_text().split("\n"))
    favoured = torch.tensor([not favourites.isdisjoint(texts) for texts in captions])
    favoured_weights = torch.where(favoured, FAVOURITE_WEIGHT, weights)
    return EmojiData(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), names, captions, weights, favoured_weights
    )


def _on_white(path: Path) -> np.ndarray:
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
