"""Times `latcli attack` on folders of photos as whole processes: together, one by one, and one process a photo.

Prints seconds a photo and peak memory, so that it shows whether time grows in proportion to the number of photos and
memory not at all. Usage: `python benchmarks/photo_folder.py PHOTOS [--counts 25,50,100] [--steps N] [--alone N]`; the
photos of the folder PHOTOS, which must all leave something to change, are repeated, each copy with other bytes behind
its end, so that nothing is found cached.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def copies(photos: list[Path], count: int, folder: Path) -> Path:
    folder.mkdir()
    for index in range(count):
        source = photos[index % len(photos)]
        (folder / f"{index:04d}{source.suffix}").write_bytes(source.read_bytes() + b"%d" % index)
    return folder


def timed(*arguments: str | Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of `latcli attack ARGUMENTS` as a process."""
    command = [sys.executable, "-m", "latcli", "attack", *map(str, arguments), "--detector", "cam", "--quiet"]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"latcli attack failed: {' '.join(command)}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", default="25,50,100")
    parser.add_argument("--steps", default="40")
    parser.add_argument("--alone", type=int, default=5, help="how many are attacked by a process each")
    given = parser.parse_args()
    photos = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with TemporaryDirectory() as name:
        work = Path(name)

        def report(what: str, count: int, folder: Path, *options: str) -> None:
            store = work / f"store {what}"
            seconds, memory = timed(folder, "--steps", given.steps, "--store", store, *options)
            print(f"{what:22} {count:4} photos {seconds:8.1f} s {seconds / count:7.3f} s a photo {memory:7.0f} MiB")

        for count in map(int, given.counts.split(",")):
            folder = copies(photos, count, work / f"{count}")
            report("together", count, folder)
        report("one by one", count, folder, "--batch", "1")
        report("without figures", count, folder, "--no-figures")
        alone = sorted(folder.iterdir())[: given.alone]
        begun = time.perf_counter()
        for index, photo in enumerate(alone):
            timed(photo, "--steps", given.steps, "--store", work / f"alone {index}")
        seconds = time.perf_counter() - begun
        print(
            f"{'one process a photo':22} {len(alone):4} photos {seconds:8.1f} s {seconds / len(alone):7.3f} s a photo"
        )


if __name__ == "__main__":
    main()
