"""Every bad input we know of, tried through the real command line: what each gets, in one table.

    python -m bench bad-input                  all rows; exit code 1 if one fails
    python -m bench bad-input --only 42 43     some of them

The contract is in docs/bad-input.md. A row that this machine cannot try says what it would need.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.flags import make_parser

if TYPE_CHECKING:
    from bench.bad_input.case import Row


def verdict(row: Row, home: Path, folder: Path) -> tuple[str, str, list[str]]:
    """What a row got, one word about it, and its faults."""
    import torch

    from bench.bad_input.case import Place, judge

    if row.needs and not (row.needs == "CUDA" and torch.cuda.is_available()):
        later = not row.needs.startswith(("CUDA", "several"))
        return "", row.needs if later else f"not on this machine (needs {row.needs})", []
    folder.mkdir()
    got, faults = judge(row, Place(home, folder))
    return got, "FAIL" if faults else "pass", faults


def main(argv: list[str]) -> int:
    parser = make_parser("bad-input", __doc__)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="numbers of rows")
    parser.add_argument("--width", type=int, default=60, help="of the columns 'expected' and 'got'; 0: as they are")
    options = parser.parse_args(argv)
    import torch  # now, for it takes seconds

    from bench.bad_input.case import make_home
    from bench.bad_input.rows import ROWS

    if unknown := sorted(set(options.only or ()) - {row.number for row in ROWS}):
        parser.error(f"there is no row {', '.join(unknown)}")
    torch.set_num_threads(1)
    rows = [row for row in ROWS if options.only is None or row.number in options.only]
    cut = options.width or 10_000
    failed: list[tuple[Row, list[str]]] = []
    verdicts: list[str] = []
    print(f"{'row':<4} {'what':<46} {'expected':<{options.width}} {'got':<{options.width}} verdict")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLAINLOOP_CACHE"] = str(Path(folder) / "cache")
        home = Path(folder) / "home"
        home.mkdir()
        make_home(home)
        for row in rows:
            got, word, faults = verdict(row, home, Path(folder) / row.number)
            got = got.replace(folder, "...")
            cells = f"{row.expected[:cut]:<{options.width}} {got[:cut]:<{options.width}}"
            print(f"{row.number:<4} {row.what[:46]:<46} {cells} {word}", flush=True)
            verdicts.append(word)
            if faults:
                failed.append((row, faults))
    for row, faults in failed:
        print(f"\nrow {row.number}, {row.what}:", *faults, sep="\n  ")
    print(
        f"\n{len(rows)} rows: {verdicts.count('pass')} pass, {len(failed)} fail, "
        f"{len(rows) - verdicts.count('pass') - len(failed)} not on this machine or not yet"
    )
    return 1 if failed else 0
