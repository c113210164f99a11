"""What arrives together is computed together, and nobody suffers from another."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from engine.console import note
from engine.data.collate import PADDED
from engine.errors import DataError
from engine.serving.batcher import Batcher, FullError, GoneError, Job, LateError
from tests.toys.served import until


class Echo:
    """Predicts each input's own; what it was given at once is kept, and it waits for ``gate``."""

    predicts_apart = True

    def __init__(self):
        self.calls, self.gate = [], threading.Event()
        self.gate.set()

    def predict(self, model, inputs, layout):
        self.gate.wait(10)
        self.calls.append(list(inputs))
        if "short" in inputs:
            return [{}] * (len(inputs) - 1)
        for item in inputs:
            if item == "bad":
                raise DataError("the input, row 1: bad")
            if item == "panic":
                raise BaseException("of a library in Rust")
        return [{"of": item} for item in inputs]

    def stream(self, model, item, part):
        for letter in item:
            part(letter)
        return {"of": item}


@pytest.fixture
def batcher():
    found = Batcher(Echo(), torch.nn.Linear(1, 1), PADDED, max_batch=4, max_waiting=8)
    yield found
    found.task.gate.set()
    found.close()


def job(*inputs, seconds=30.0, **more):
    return Job(list(inputs), time.monotonic() + seconds, **more)


def held(batcher, *jobs):
    """The thread is busy with another job while these arrive; then it goes on."""
    batcher.task.gate.clear()
    first = job("first")
    batcher.submit(first)
    until(lambda: batcher.waiting == 0)
    for each in jobs:
        batcher.submit(each)
    return first


def test_jobs_that_arrive_together_are_computed_together_and_each_gets_its_own(batcher):
    jobs = [job("a", "b"), job("c"), job("d", "e")]
    held(batcher, *jobs)
    batcher.task.gate.set()
    assert [[each["of"] for each in one.answer.result(10)] for one in jobs] == [["a", "b"], ["c"], ["d", "e"]]
    assert batcher.task.calls == [["first"], ["a", "b", "c"], ["d", "e"]], "at most 4 inputs, and no request is cut"


def test_a_request_larger_than_a_batch_is_computed_by_itself(batcher):
    large = job(*"abcdef")
    batcher.submit(large)
    assert len(large.answer.result(10)) == 6 and batcher.task.calls == [list("abcdef")]


def test_what_depends_on_its_neighbours_has_none_of_another_request(batcher):
    batcher.task.predicts_apart = False
    jobs = [job("a"), job("b")]
    held(batcher, *jobs)
    batcher.task.gate.set()
    for each in jobs:
        each.answer.result(10)
    assert batcher.task.calls == [["first"], ["a"], ["b"]]


@pytest.mark.parametrize(("wrong", "error"), [("bad", DataError), ("panic", BaseException)])
def test_who_asks_beside_a_mistake_is_answered(batcher, wrong, error):
    jobs = [job("a"), job(wrong), job("b")]
    held(batcher, *jobs)
    batcher.task.gate.set()
    assert jobs[0].answer.result(10) == [{"of": "a"}] and jobs[2].answer.result(10) == [{"of": "b"}]
    assert type(jobs[1].answer.exception(10)) is error
    after = job("c")
    batcher.submit(after)
    assert after.answer.result(10) == [{"of": "c"}], "the thread lives"


def test_a_task_that_gives_too_few_answers_is_no_answer(batcher):
    each = job("a", "short")
    batcher.submit(each)
    assert "gives 1 answers to 2 inputs" in str(each.answer.exception(10))


def test_a_full_queue_refuses_with_the_seconds_to_wait(batcher):
    batcher.pace = 0.5
    first = held(batcher, job(*"abcdefg"))
    with pytest.raises(FullError) as refused:
        batcher.submit(job("h", "i"))
    assert refused.value.seconds == 4  # of 7 inputs at 0.5 s
    batcher.submit(job("h"))
    batcher.task.gate.set()
    first.answer.result(10)


def test_who_has_gone_or_is_late_is_not_computed(batcher):
    gone, late, other = job("gone"), job("late", seconds=0), job("other")
    held(batcher, gone, late, other)
    assert gone.answer.cancel()
    batcher.task.gate.set()
    other.answer.result(10)
    assert isinstance(late.answer.exception(10), LateError) and batcher.task.calls == [["first"], ["other"]]
    assert batcher.waiting == 0


def test_the_end_answers_what_is_in_the_queue(batcher):
    jobs = [job("a"), job("b")]
    held(batcher, *jobs)
    batcher.task.gate.set()
    batcher.close()
    assert [each.answer.result(0) for each in jobs] == [[{"of": "a"}], [{"of": "b"}]] and not batcher.is_alive
    with pytest.raises(FullError):
        batcher.submit(job("c"))


def test_a_text_is_handed_on_while_it_is_written_and_ends_when_nobody_listens(batcher):
    heard = []
    each = job("text", part=heard.append)
    batcher.submit(each)
    assert each.answer.result(10) == [{"of": "text"}] and heard == list("text")

    def leave(letter):
        if letter == "x":
            raise GoneError
        heard.append(letter)

    left = job("text", part=leave)
    batcher.submit(left)
    assert isinstance(left.answer.exception(10), GoneError) and heard[4:] == ["t", "e"]


def test_remarks_are_counted_and_not_said(batcher, capsys):
    seen = []

    class Watch:
        def computed(self, inputs, jobs, seconds):
            seen.append((inputs, jobs))

        def noted(self, notes):
            seen.extend(notes)

    batcher.watch = Watch()
    predict = batcher.task.predict
    batcher.task.predict = lambda *given: note("1 of 2 texts cut") or predict(*given)
    each = job("a", "b")
    batcher.submit(each)
    each.answer.result(10)
    until(lambda: len(seen) == 2)
    assert seen == [(2, 1), "1 of 2 texts cut"] and capsys.readouterr().err == ""
    note("heard again")
    assert capsys.readouterr().err == "heard again\n"
