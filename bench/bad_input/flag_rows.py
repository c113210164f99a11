"""Rows 1 to 25: flags and config files."""

from __future__ import annotations

import json

from bench.bad_input.case import Attempts, Place, row
from bench.bad_input.forms import ROWS_OF_DATA, each, flags

flags(1, "unknown flag", "did you mean --learning-rate?", "--lerning-rate 1")
flags(2, "unknown task", "there are: yelp, imdb, classification", "--task yepl")
flags(3, "epochs 0 or negative", "--epochs must be at least 1", "--epochs 0", "--epochs -1", "--epochs=-1")
flags(4, "max_steps 0", "--max-steps must be at least 1, found 0", "--max-steps 0")
flags(
    5, "learning rate negative", "--learning-rate must be a positive finite number", "--learning-rate=-1", "--learning-rate 0"
)
flags(6, "learning rate NaN", "--learning-rate must be a positive finite number, found nan", "--learning-rate nan")
flags(7, "learning rate infinite", "--learning-rate must be a positive finite number, found inf", "--learning-rate inf")
flags(8, "learning rate text", "--learning-rate: invalid float value: 'high'", "--learning-rate high")
flags(9, "weight decay NaN", "--weight-decay must be a finite number of at least 0, found nan", "--weight-decay nan")
flags(
    10,
    "warm-up longer than the run",
    "--warmup-ratio must be at least 0 and less than 1",
    "--warmup-ratio 1",
    "--warmup-ratio 2",
)
flags(11, "batch size 0, negative, 1.5", "--batch-size", "--batch-size 0", "--batch-size=-4", "--batch-size 1.5")
flags(12, "accumulation 0", "--accumulation-steps must be at least 1, found 0", "--accumulation-steps 0")


@row(13, "accumulation that does not divide the batches", 0, "plan       2 steps")
def _(at: Place) -> Attempts:
    yield at.train("--accumulation-steps", "2")
    lines = [json.loads(line) for line in (at.out / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 2, "three micro-batches, two steps"


each(14, "batch larger than the data", 0, "warning: a step of 4096 examples is more than the 24 there are",
     lambda at: [at.train("--batch-size", "4096")])  # fmt: skip
flags(15, "dropout outside 0-1 (the model's own: no flag)", "unknown argument '--dropout'", "--dropout 1.5")
flags(16, "max_length 0", "--max-length must be at least 1, found 0", "--max-length 0")
flags(17, "max_length beyond the model's positions", "--max-length 33: this model takes at most 32 tokens", "--max-length 33")
flags(
    18,
    "best metric that is not computed",
    "--best-metric bleu is not computed; there are: loss, accuracy",
    "--best-metric bleu",
)
flags(19, "save_steps negative", "--save-steps must not be negative, found -5", "--save-steps=-5")
flags(20, "a flag twice", "--epochs is given twice", "--epochs 2 --epochs 3", "--epochs 2 --epochs=2")


@row(21, "malformed config file", 2, "line 2")
def _(at: Place) -> Attempts:
    yield at.train("--config", at.write("c.toml", "seed = 1\nepochs = = 2\n"))
    yield at.train("--config", at.write("c.json", '{"seed": 1,\n"epochs": }'))


flags(22, "flags that contradict each other", "contradict", "--resume --overwrite")
flags(23, "seed out of range", "--seed must be at least 0 and less than 2**32", "--seed=-1", "--seed 4294967296")
each(24, "evaluation without evaluation data", 2, "there is no evaluation data: give --eval-file",
     lambda at: [at.on("t.csv", ROWS_OF_DATA, "--eval-steps", "1"), at.on("t.csv", ROWS_OF_DATA, "--patience", "2"),
                 at.on("t.csv", ROWS_OF_DATA, "--best-metric", "accuracy")])  # fmt: skip
flags(25, "a bool given as text", "--compile", "--compile perhaps")
