"""Which of the hidden steps of docs/what-trainer-hides.md bite in a configuration, each with its numbers.

A finding is said only where the arguments, the model and the data that were given make it true; what depends on something that
is not known says so, or is left out. tests/bench/xray run Trainer with the same arguments and compare. Next: translate.py.
"""

from __future__ import annotations

from bench.xray.case import Case, Finding
from bench.xray.learned import of_loss, of_optimizer, of_schedule
from bench.xray.seen import of_checkpoints, of_data, of_evaluation, of_log, of_precision, of_setup


def find(case: Case) -> list[Finding]:
    """All findings, in the order of the page."""
    parts = (of_loss, of_schedule, of_optimizer, of_log, of_evaluation, of_checkpoints, of_data, of_precision, of_setup)
    return sorted((finding for part in parts for finding in part(case)), key=lambda finding: finding.row)
