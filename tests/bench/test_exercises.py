"""The exercises: as they are handed out they are wrong, their solutions are right, and typical mistakes are told apart."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import run
from bench.lessons import command, exercise
from bench.lessons.judges import JUDGES, sentence

ROOT = Path(__file__).parents[2]
HEAD = "import torch\nfrom torch.nn import functional as F\n"
STEP = "def step(model, optimizer, micro_batches):\n"
CLIP = "def step(model, optimizer, scaler, loss, max_norm):\n    scaler.scale(loss).backward()\n"
CLIPS = "    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n"
MAKE = "def make_optimizer(model, learning_rate, weight_decay):\n"
RATE = "def rate(step, num_steps, warmup, peak):\n"
ORDER = "import random\n\ndef order(num_rows, seed, epoch):\n"
LOSS = "def loss(logits, ids, mask):\n"
EVALUATE = "def evaluate(model, batches):\n    losses = [F.cross_entropy(model(x), y) for x, y in batches]\n    sizes = [len(y) for _, y in batches]\n"
PACKED = "def within(lengths):\n    return torch.cat([torch.arange(n) for n in lengths])\n\ndef packed(lengths):\n"
ROWS = "    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))\n"
TEMPERATURE = "def temperature(logits, labels):\n"
CHOOSE = "def choose(right):\n    first, second = (part.float().mean(1) for part in right.chunk(2, 1))\n"
LOGGED = "def logged(steps, every):\n    windows = [steps[i:i + every] for i in range(0, len(steps), every)]\n"
MASK = "def mask(num_tokens, seed, epoch, row):\n"
FACTOR = "def factor(num_tokens, world_size, sum_over_ranks):\n"
EACH = "    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction='none').view(len(ids), -1)\n    real = mask[:, 1:]\n"


def drawn_with(seed: str) -> str:
    """A mask drawn by a generator with this seed."""
    return f"    return torch.rand(num_tokens, generator=torch.Generator().manual_seed({seed})) < 0.15\n"


def by_two(condition: str) -> str:
    """An optimizer whose second group, which is not decayed, has the parameters that the condition is true of."""
    return (
        MAKE + f"    spared = [p for n, p in model.named_parameters() if {condition}]\n"
        f"    others = [p for n, p in model.named_parameters() if not ({condition})]\n"
        "    return torch.optim.AdamW([{'params': others, 'weight_decay': weight_decay}, {'params': spared, 'weight_decay': 0.0}], "
        "lr=learning_rate)\n"
    )


WRONG = {  # typical answers that are wrong, and words of the sentence that each gets
    "accumulation": [
        (STEP + "    for x, y in micro_batches:\n        F.cross_entropy(model(x), y, reduction='sum').backward()\n    optimizer.step()\n",
         "the sum over 12 rows, and nobody divides by their number"),
        (STEP + "    for x, y in micro_batches:\n        (F.cross_entropy(model(x), y) / len(micro_batches)).backward()\n    optimizer.step()\n    optimizer.zero_grad()\n",
         "right for micro-batches of one size, wrong for 5 + 5 + 2 rows"),
        (STEP + "    for x, y in micro_batches:\n        optimizer.zero_grad()\n        F.cross_entropy(model(x), y).backward()\n    optimizer.step()\n",
         "only the last micro-batch counts"),
        (STEP + "    for x, y in micro_batches:\n        F.cross_entropy(model(x), y).backward()\n        optimizer.step()\n        optimizer.zero_grad()\n",
         "it makes 3 optimizer steps over 3 micro-batches"),
        (STEP + "    n = sum(len(y) for _, y in micro_batches)\n    for x, y in micro_batches:\n        (F.cross_entropy(model(x), y, reduction='sum') / n).backward()\n    optimizer.step()\n",
         "gradients are left behind"),
    ],
    "order": [
        (ORDER + "    return torch.randperm(num_rows).tolist()\n", "it gives another order: a resumed run would read other rows"),
        (ORDER + "    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed)).tolist()\n", "every epoch has the same order"),
        (ORDER + "    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()\n",
         "the second epoch of seed 42 is the first one of seed 43"),
        (ORDER + "    torch.manual_seed(1000 * seed + epoch)\n    return torch.randperm(num_rows).tolist()\n", "global generator"),
        (ORDER + "    return [random.Random(f'{seed} {epoch}').randrange(num_rows) for _ in range(num_rows)]\n", "not each row comes once"),
    ],
    "num-items": [
        (LOSS + "    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())\n", "padding counts: targets that are no tokens"),
        (LOSS + EACH + "    return ((each * real).sum(1) / real.sum(1)).mean()\n", "each row weighs the same"),
        (LOSS + EACH + "    return (each * real).sum() / mask.sum()\n", "the first of each row is no target: Trainer does that to GPT-2"),
        (LOSS + EACH + "    return (each * real).mean()\n", "padding is zeroed and still divided by"),
        (LOSS + "    each = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction='none').view(ids.shape)\n    return (each * mask).sum() / mask.sum()\n",
         "compared with its own token: it has to predict"),
    ],
    "clipping": [
        (CLIP + "    scaler.step(optimizer)\n" + CLIPS + "    scaler.update()\n    optimizer.zero_grad()\n", "nothing is clipped before the weights move"),
        (CLIP + "    scaler.unscale_(optimizer)\n" + CLIPS + "    optimizer.step()\n    scaler.update()\n    optimizer.zero_grad()\n", "a gradient that overflowed reached the weights"),
        (CLIP + "    scaler.unscale_(optimizer)\n" + CLIPS + "    scaler.step(optimizer)\n    optimizer.zero_grad()\n", "the scale is still 1024"),
        (CLIP + "    scaler.unscale_(optimizer)\n    for p in model.parameters():\n        p.grad *= max_norm / p.grad.norm()\n    scaler.step(optimizer)\n    scaler.update()\n",
         "cut down to the norm 1.0"),
    ],
    "decay": [
        (by_two("'bias' in n"), "ln.weight is decayed: its class, LayerNorm, says that it is a norm"),
        (by_two("'bias' in n or n.startswith('ln')"), "scale.gain is decayed: it belongs to a norm that neither its class nor its name gives away"),
        (by_two("'ln' in n or 'scale' in n"), "first.bias is decayed: biases are decayed"),
        (MAKE + "    return torch.optim.AdamW([p for p in model.parameters() if p.dim() > 1], lr=learning_rate, weight_decay=weight_decay)\n",
         "is in no group: it would never be trained"),
        (by_two("p.dim() < 2 or 'tokens' in n"), "tokens.weight loses 0 in a step and should lose 0.001"),
    ],
    "schedule": [
        (RATE + "    if step <= warmup:\n        return peak * (step - 1) / warmup\n    return peak * (num_steps + 1 - step) / (num_steps + 1 - warmup)\n",
         "the first step has the learning rate 0"),
        (RATE + "    if step <= warmup:\n        return peak * step / warmup\n    return peak * (num_steps - step) / (num_steps - warmup)\n",
         "the last step has the learning rate 0"),
        (RATE + "    return peak * min(1, step / warmup)\n", "and then stays at the peak"),
        (RATE + "    return min(peak * step / warmup, peak * (num_steps + 1 - step) / (num_steps + 1 - warmup))\n", "it divides by zero"),
        (RATE + "    if step <= warmup:\n        return peak * step / (warmup + 1)\n    return peak * (num_steps + 1 - step) / (num_steps - warmup)\n",
         "step 1 of the warm-up has 0.1 and should have 0.125"),
    ],
    "last-batch": [
        (EVALUATE + "    return float(sum(a * b for a, b in zip(losses, sizes)) / sum(sizes))\n", "dropout is on (model.eval())"),
        (EVALUATE.replace("    losses", "    model.eval()\n    losses") + "    return float(sum(a * b for a, b in zip(losses, sizes)) / sum(sizes))\n",
         "leaves the model in eval mode"),
        (EVALUATE + "    return float(sum(a * b for a, b in zip(losses, sizes)))\n", "it is the sum over 13 rows"),
        (EVALUATE.replace("    losses", "    model.eval()\n    losses") + "    model.train()\n    return float(sum(a * b for a, b in zip(losses, sizes)) / sum(sizes))\n",
         "in eval mode is in training mode afterwards"),
    ],
    "packing": [
        (PACKED + ROWS + "    return torch.arange(len(rows)), (rows[:, None] == rows[None]).tril()\n", "positions are [0, 1, 2, 3, 4, 5, 6, 7, 8] and should be [0, 1, 2, 0, 1"),
        (PACKED + ROWS + "    return within(lengths), rows[:, None] == rows[None]\n", "token 0 looks at token 1, which comes behind it"),
        (PACKED + ROWS + "    return within(lengths), (rows[:, None] == rows[None]).tril(-1)\n", "a token does not look at itself"),
        (PACKED + ROWS + "    return within(lengths), ~(rows[:, None] == rows[None]).tril()\n", "the mask is the other way round"),
        (PACKED + ROWS + "    return within(lengths), (rows[:, None] == rows[None]).tril().float()\n", "the mask is torch.float32 of shape (9, 9)"),
    ],
    "calibration": [
        (TEMPERATURE + "    tried = [0.05 + 0.01 * i for i in range(1000)]\n    return min(tried, key=lambda t: float(F.cross_entropy(logits * t, labels)))\n",
         "what logits are multiplied by, and not divided by"),
        (TEMPERATURE + "    tried = [1 + 0.01 * i for i in range(1000)]\n    return min(tried, key=lambda t: float(F.cross_entropy(logits / t, labels)))\n",
         "not sure enough it gives 1.00 and a loss of"),
        (TEMPERATURE + "    tried = torch.logspace(-1, 1, 500)\n    return tried[torch.stack([F.cross_entropy(logits / t, labels) for t in tried]).argmin()]\n",
         "it returns a tensor"),
        (TEMPERATURE + "    return float('nan')\n", "it gives nan and a loss of nan"),
        (TEMPERATURE + "    tried = [0.1 * i for i in range(1, 200)]\n    return min(tried, key=lambda t: -float((logits / t).softmax(-1).max(-1).values.mean()))\n",
         "too sure it gives 0.10 and a loss of"),
    ],
    "best-of-n": [
        (CHOOSE + "    best = int(first.argmax())\n    return best, float(first[best])\n", "reported on the half that chose it"),
        (CHOOSE + "    return int(first.argmax()), float(second.max())\n", "the second half chooses again"),
        (CHOOSE + "    best = int(right.float().mean(1).argmax())\n    return best, float(second[best])\n", "all rows have chosen it, those that report, too"),
        (CHOOSE + "    return 0, float(second[0])\n", "it hardly chooses"),
        (CHOOSE + "    return int(first.argmax()), float(second.mean())\n", "% right, and it reports"),
    ],
    "logged-loss": [
        (LOGGED + "    means = [[t / n for t, n in w] for w in windows]\n    return [sum(m) / len(m) for m in means]\n", "one row in a short step counts as much as 16 others"),
        (LOGGED + "    return [sum(t for t, _ in w) / sum(n for _, n in w) for w in windows if len(w) == every]\n", "in no line"),
        (LOGGED + "    return [sum(t for t, _ in w) / len(w) for w in windows]\n", "sums are divided by steps"),
        (LOGGED + "    return [sum(t for t, _ in w) / max(1, sum(n for _, n in w)) for w in windows]\n", "a window without rows has None, and not 0.0"),
        (LOGGED + "    ends = [min(len(steps), i + every) for i in range(0, len(steps), every)]\n    return [sum(t for t, _ in steps[:e]) / sum(n for _, n in steps[:e]) for e in ends]\n",
         "a line holds all steps from the beginning"),
    ],
    "workers": [
        (MASK + "    own = torch.Generator()\n    own.seed()\n    return torch.rand(num_tokens, generator=own) < 0.15\n", "a restart would mask other tokens"),
        (MASK + drawn_with("seed + 1000 * row"), "every epoch has the same mask"),
        (MASK + drawn_with("1000 * seed + epoch"), "every row has the same mask"),
        (MASK + drawn_with("seed + epoch + row"), "have the same mask: combined so"),
        (MASK + drawn_with("hash((seed, epoch, row)) % 2**31").replace("0.15", "0.85"), "% of the tokens are masked, and 15 % are asked for"),
    ],
    "ranks": [
        (FACTOR + "    return 1 / sum_over_ranks(num_tokens)\n", "2 times too small: DDP's mean divides by the 2 processes, too"),
        (FACTOR + "    return world_size / max(num_tokens, 1)\n", "and the means are added up"),
        (FACTOR + "    if not num_tokens:\n        return 0.0\n    return world_size / sum_over_ranks(num_tokens)\n",
         "a process with 0 tokens does not call sum_over_ranks"),
        (FACTOR + "    return num_tokens / sum_over_ranks(num_tokens)\n", "which the sum has done already"),
        (FACTOR + "    return 2 * world_size / sum_over_ranks(num_tokens)\n", "the factors are 0.5000, 0.5000 and should all be 0.2500"),
    ],
}  # fmt: skip
EMPTY = {  # what the file says as it is handed out
    "accumulation": "about 3 times too large: the means of 3 micro-batches are added up, as Trainer does it",
    "order": "the rows are not shuffled", "num-items": "compared with its own token and not with the one behind it, and padding counts",
    "clipping": "what was clipped was still multiplied by the loss scale", "decay": "all 8 parameters are decayed",
    "schedule": "the rate is 0.5 in every step", "last-batch": "it is the mean of the batches' means",
    "packing": "token 3 looks at token 0, which is of another row", "calibration": "the temperature is 1: nothing is learned",
    "best-of-n": "it is reported on the rows that chose it", "workers": "it draws from a global generator",
    "logged-loss": "the last line is divided by steps that it does not have",
    "ranks": "a token of one weighs more than one of another",
}  # fmt: skip


def judged(name: str, text: str, folder: Path) -> str:
    (folder / "answer.py").write_text(text)
    return sentence(name, folder / "answer.py")


def test_every_exercise_has_a_lesson_a_judge_a_solution_and_wrong_answers():
    assert set(exercise.names()) == set(JUDGES) == set(WRONG) == set(EMPTY) <= set(command.all_lessons())
    solutions = {path.stem.replace("_", "-") for path in exercise.FOLDER.glob("solutions/*.py")} - {"--init--"}
    assert solutions == set(JUDGES)


@pytest.mark.parametrize("name", JUDGES)
def test_the_empty_one_and_typical_wrong_answers_get_a_sentence_each(name, tmp_path):
    said = [judged(name, exercise.file_of(name).read_text(), tmp_path)]
    assert EMPTY[name] in said[0]
    for answer, words in WRONG[name]:
        said.append(judged(name, HEAD + answer, tmp_path))
        assert words in said[-1], said[-1]
    assert len(set(said)) == len(said) >= 4, "a sentence of its own for each"


@pytest.mark.parametrize("name", JUDGES)
def test_the_solution_is_right_and_keeps_the_functions_name(name, tmp_path):
    solution = exercise.FOLDER / f"solutions/{name.replace('-', '_')}.py"
    assert sentence(name, solution) == ""
    handed_out = ast.parse(exercise.file_of(name).read_text())
    task = ast.get_docstring(handed_out)
    assert f"python run.py lesson {name} --check FILE" in task and JUDGES[name][0] in ast.unparse(handed_out)


def test_trainers_decay_groups_do_not_pass(tmp_path):
    """Trainer's own rule misses a norm of its own class and name: the lesson that stands behind this exercise."""
    answer = (
        "import torch\nfrom transformers import Trainer\n"
        + MAKE
        + "    kept = Trainer.get_decay_parameter_names(None, model)\n"
        "    two = [[p for n, p in model.named_parameters() if (n in kept) == decayed] for decayed in (True, False)]\n"
        "    return torch.optim.AdamW([{'params': two[0], 'weight_decay': weight_decay}, {'params': two[1], 'weight_decay': 0.0}], lr=learning_rate)\n"
    )
    assert "scale.gain is decayed" in judged("decay", answer, tmp_path)


def test_it_is_written_changed_and_checked_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["lesson", "accumulation", "--exercise"]) == 0
    assert "accumulation_exercise.py: read what it asks for" in capsys.readouterr().out
    assert "--check accumulation_exercise.py" in Path("accumulation_exercise.py").read_text()
    assert run.main(["lesson", "accumulation", "--check", "accumulation_exercise.py"]) == 1
    err = capsys.readouterr().err
    assert (
        err.startswith("error: accumulation_exercise.py: nothing is changed in it yet: the gradient is about 3 times")
        and err.count("\n") == 1
    )
    assert run.main(["lesson", "accumulation", "--exercise"]) == 2
    assert "is there already, and may be your work: name another file" in capsys.readouterr().err
    Path("accumulation_exercise.py").write_text((exercise.FOLDER / "solutions/accumulation.py").read_text())
    assert run.main(["lesson", "accumulation", "--check", "accumulation_exercise.py"]) == 0
    assert capsys.readouterr().out.startswith("right: accumulation_exercise.py does what the exercise")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def rate(step, num_steps, warmup, peak):\n    return 1 / 0\n", "not right yet: line 2 raises ZeroDivisionError: division by zero"),
        ("def rat(): pass\n", "there is no function rate() in it"), ("def rate(:\n", "line 1 raises SyntaxError"),
        ("import os\nos._exit(3)\n", "it ended the process that checks it (exit code 3)"),
        ("raise SystemExit(0)\n", "line 1 raises SystemExit"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_run_is_one_line(text, words, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(text)
    assert run.main(["lesson", "schedule", "--check", str(tmp_path / "mine.py")]) == 1
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1, err


def test_a_file_that_does_not_end_is_ended(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exercise, "TIME_LIMIT", 3)
    (tmp_path / "mine.py").write_text("while True: pass\n")
    assert run.main(["lesson", "schedule", "--check", str(tmp_path / "mine.py")]) == 1
    assert "it did not end within 3 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["seed", "--exercise"], "lesson seed has no exercise; there are some for accumulation, "),
        (["--exercise"], "an exercise is of one lesson"), (["order", "decay", "--exercise"], "an exercise is of one lesson"),
        (["order", "--exercise", "--check", "a.py"], "give one of them"), (["order", "--output", "a.py"], "--output is the file that --exercise writes"),
        (["order", "--check", "none.py"], "--check none.py: there is no such file; python run.py lesson order --exercise writes one"),
        (["order", "--exercise", "--output", "a.txt"], "--output must end in .py, found 'a.txt'"),
    ],
)  # fmt: skip
def test_what_cannot_be_practised_is_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run.main(["lesson", *arguments]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1, err


def test_the_course_names_lessons_and_exercises_that_exist():
    page = (ROOT / "docs/course.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^## Session \d", page, flags=re.MULTILINE)) == 6
    assert set(re.findall(r"python run.py lesson ([a-z][a-z0-9-]*)", page)) == set(command.all_lessons()), (
        "every lesson has its place"
    )
    assert set(re.findall(r"lesson ([a-z0-9-]+) --exercise", page)) == set(JUDGES)


def test_the_minutes_of_the_course_add_up():
    """The plan's rule: 15 for each lesson held in class, 10 at the end, and the rest for exercises and measurements."""
    page = (ROOT / "docs/course.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.partition("\n|---")[2].splitlines()[1:8]]
    *sessions, together = rows
    said = re.findall(r"; (\d+) minutes\. At home .*?, (\d+) minutes\.$", page, flags=re.MULTILINE)
    assert said == [(row[3], row[5]) for row in sessions]
    for row in sessions:
        lessons = row[1].count(",") + 1
        assert int(row[3]) - 15 * lessons - 10 in (20, 25, 40, 55), row
    assert [int(together[i]) for i in (3, 5)] == [sum(int(row[i]) for row in sessions) for i in (3, 5)]
    assert int(together[1]) == sum(row[1].count(",") + 1 for row in sessions)
