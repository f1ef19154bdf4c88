"""Search at random for what the tests miss: `make fuzz MINUTES=5`.

A piece is one file of tests, drawn at random, with four times the examples of `make test`, from a fresh seed that is
printed. It may be interrupted at any time. Of each failure the command that shows it again is printed.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
SEARCHES = ("@given", "mark.fuzz")


def searching() -> list[str]:
    """The files whose tests search."""
    files = sorted(path for path in TESTS.rglob("test_*.py") if "benchmarks" not in path.parts)
    return [str(path.relative_to(TESTS.parent)) for path in files if any(s in path.read_text() for s in SEARCHES)]


def command(file: str, seed: int) -> list[str]:
    """pytest on one file; all that a piece depends on."""
    options = ["-q", "-m", "hypothesis or fuzz", "--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
    return ["-m", "pytest", file, *options, "-p", "no:cacheprovider"]


def shown(words: list[str]) -> str:
    """As it is typed into a shell."""
    return " ".join(["OMP_NUM_THREADS=1 python", *(f"'{word}'" if " " in word else word for word in words)])


def piece(file: str, seed: int) -> bool:
    """Run it; True if it found nothing."""
    words = command(file, seed)
    done = subprocess.run([sys.executable, *words], cwd=TESTS.parent, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or ["no output"]
    print(f"{file}, seed {seed}: {lines[-1]}", flush=True)
    if done.returncode in (0, 5):  # 5: nothing was selected
        return True
    print(done.stdout, done.stderr, f"again: {shown(words)}\n", sep="\n", flush=True)
    return False


def main() -> None:
    """Go on until the time is over; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("files", nargs="*", help="of tests; by default all that search")
    options = parser.parse_args()
    end, files, found = time.monotonic() + 60 * options.minutes, options.files or searching(), list[str]()
    try:
        while time.monotonic() < end:
            file, seed = random.choice(files), random.SystemRandom().randrange(2**32)
            if not piece(file, seed):
                found.append(shown(command(file, seed)))
    except KeyboardInterrupt:
        print("stopped")
    print(*(["found:", *found] if found else ["nothing found"]), sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
