"""Remakes docs/tutorial.md: runs its commands in order in a temporary folder, and writes what they print and draw.

    python docs/make_tutorial.py

Each ```sh block is run as it stands, 80 columns wide. What it prints replaces the ```text block after it; `lines` in
the comment between them limits them. Pictures go to docs/images, each below 150 KB; the one of the page needs Chromium.
Takes about five minutes on two cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
PAGE = DOCS / "tutorial.md"
MOST_BYTES = 150_000

STEP = re.compile(
    r"```sh\n(?P<commands>.*?)```\n(?P<mark>\n<!-- printed(?:, (?P<lines>\d+) lines)? -->\n```text\n.*?```\n)?",
    re.DOTALL,
)
#: Pictures of the page, where in the folder each comes from, and its width in pixels.
PICTURES = {
    "mask": ("masks/overlays/bus.*", 360),
    "attack": ("runs/*-attack-*/bus-figure.png", 900),
    "training": ("figures/training-*.png", 900),
    "matrix": ("figures/matrix-*.png", 800),
}


def main() -> None:
    """Run everything, then replace page and pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = STEP.sub(lambda step: done(step, folder), PAGE.read_text(encoding="utf-8"))
        PAGE.write_text(text, encoding="utf-8")
        for picture, (pattern, width) in PICTURES.items():
            save(Image.open(next(folder.glob(pattern))), picture, width)
        photograph(folder / "page.html", folder / "page.png")


def done(step: re.Match[str], folder: Path) -> str:
    """The step with what its commands print now."""
    print(step["commands"], end="", file=sys.stderr)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LATCLI_")}
    environment |= {"PATH": path, "COLUMNS": "80", "NO_COLOR": "1"}
    shell = ["bash", "-euc", step["commands"]]
    printed = subprocess.run(shell, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    if step["mark"] is None:
        return step[0]
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    kept = lines[: int(step["lines"])] if step["lines"] else lines
    head = step[0][: step[0].index("```text\n")]
    return f"{head}```text\n" + "\n".join([*kept, *(["..."] if len(kept) < len(lines) else [])]) + "\n```\n"


def save(picture: Image.Image, name: str, width: int) -> None:
    """Write a picture of the page, in as many colours as its size allows."""
    rgb = picture.convert("RGB")
    small = rgb.resize((width, round(rgb.height * width / rgb.width)), Image.Resampling.LANCZOS)
    path = DOCS / "images" / f"tutorial-{name}.png"
    for colours in (256, 128, 64, 32, 16):
        small.quantize(colours).save(path, optimize=True)
        if path.stat().st_size < MOST_BYTES:
            return


def photograph(page: Path, target: Path) -> None:
    """The top of the report's page as Chromium shows it; left as it was where there is no Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium: the picture of the page stays as it was", file=sys.stderr)
        return
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,1500"]
    subprocess.run([browser, *flags, f"--screenshot={target}", page.as_uri()], check=True, capture_output=True)
    save(Image.open(target), "page", 800)


if __name__ == "__main__":
    main()
