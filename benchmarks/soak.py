"""A million lines through the filter: `python benchmarks/soak.py RUN LINES TEXT... [-- OPTION...]`.

Repeats the lines of the texts, every 97th one blank, up to LINES lines of standard input for `projtrans translate
--model RUN OPTION...`, and prints the memory of that process over time. Fails if lines are missing or superfluous, or a
blank one is out of place; counts the lines that are translated differently from the first time.
"""

import itertools
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from projtrans.files import read_lines

BLANK_EVERY = 97
REPORT_LINES = 50_000


def lines(texts: list[str], count: int) -> Iterator[str]:
    """The input lines."""
    for number, text in enumerate(itertools.islice(itertools.cycle(texts), count)):
        yield "" if number % BLANK_EVERY == 0 else text


def feed(stream: IO[bytes], texts: list[str], count: int) -> None:
    """Write the input as fast as it is read."""
    with stream:
        for line in lines(texts, count):
            stream.write(f"{line}\n".encode())


def memory(process: int) -> float:
    """Resident anonymous memory, in MiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def main() -> None:
    """Feed, read, compare, print."""
    given, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    run, count, *paths = given.split()
    texts = [text for path in paths for text in read_lines(Path(path)) if text.strip()]
    command = [sys.executable, "-m", "projtrans", "translate", "--model", run, *options.split()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    threading.Thread(target=feed, args=(process.stdin, texts, int(count))).start()
    first, other, begun = {"": hash(b"\n")}, 0, time.monotonic()
    for number, (source, line) in enumerate(zip(lines(texts, int(count)), process.stdout, strict=True), 1):
        if not source and line != b"\n":
            raise SystemExit(f"line {number} is blank and gave {line!r}")
        other += first.setdefault(source, hash(line)) != hash(line)
        if number % REPORT_LINES == 0 and number < int(count):
            seconds = time.monotonic() - begun
            print(f"{number:>9,} lines {seconds:6.0f} s {memory(process.pid):7.1f} MiB {other:4} otherwise", flush=True)
    status, peak = process.wait(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{count} lines {time.monotonic() - begun:.0f} s, {other} otherwise; exit status {status}, peak {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
