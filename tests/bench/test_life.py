"""docs/life-of-a-model.md: its commands are run, and what is shown of them is cut in one way."""

from __future__ import annotations

import pytest

from bench.quality.life import BLOCK, FIRST, LAST, PAGE, played, run, shortened


def test_every_block_of_commands_has_its_output():
    text = PAGE.read_text()
    assert len(BLOCK.findall(text)) == text.count("```bash\n") >= 10
    for found in BLOCK.finditer(text):
        assert found["said"].strip(), f"not run yet: {found['commands']}"


def test_long_outputs_lose_their_middle_and_bars_are_left_out():
    lines = [f"line {i}" for i in range(40)]
    shown = shortened("\n".join(["training:  40%|████      | 4/10 [00:01<00:02,  3.1it/s]", *lines])).splitlines()
    assert shown == [*lines[:FIRST], "...", *lines[-LAST:]]
    assert shortened("a\rb\n") == "b\n"


def test_a_command_that_fails_ends_it(tmp_path):
    assert run("python -c 'print(1)'\npython run.py env | head -1", tmp_path).startswith("1\n")
    with pytest.raises(SystemExit, match="ended with 4"):
        run("python -c 'raise SystemExit(4)'\necho never", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_as_it_is_typed(tmp_path):
    """Every command ends as the page says. What was planted is found: shorter texts of another mixture have drifted."""
    text = played(PAGE.read_text(), tmp_path, lambda commands, seconds: None)
    said = [found["said"] for found in BLOCK.finditer(text)]
    then = [found["said"] for found in BLOCK.finditer(PAGE.read_text())]
    assert len(said) == len(then)
    assert any("exit code 8" in each for each in said), "the drift"
    assert any("kept: the " in each for each in said), "the update"
    assert any('"Positive"' in each for each in said), "the answer of the server"
