# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Session 6: surviving
#
# Which weights are decayed, what a schedule does at its ends, and what is left of a run that is killed. For each experiment: write your prediction down, run the cell, then look. The whole course is in `docs/course.md`.

# %%
# Where Plainloop can be imported, this cell installs nothing. Elsewhere, on Colab say, it does: from
# a wheel beside this notebook (upload one; `pip wheel --no-deps -w dist .` makes it), from the
# checkout around it, or from ADDRESS.
import importlib.util
import subprocess
import sys
from pathlib import Path

ADDRESS = ""  # of the repository, as pip takes it: git+https://...
if importlib.util.find_spec("plainloop") is None:
    wheels, around = sorted(Path().glob("plainloop-*.whl")), sorted(Path("..").glob("hatch_build.py"))
    here = wheels or [file.parent for file in around]
    place = here[-1].resolve().as_uri() if here else ADDRESS
    assert place, "upload a wheel of Plainloop, or fill in ADDRESS"
    wanted = f"plainloop[offline,bench] @ {place}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
plainloop = f'"{sys.executable}" -m plainloop'  # the command, of the same Python

# %%
from IPython.display import Image

LESSONS = Path("runs/lessons")  # where the pictures go

# %% [markdown]
# **Predict:** `weight_decay=0.01`, a model with a norm that its authors wrote themselves and called `scale`. Is it decayed?

# %%
# !{plainloop} lesson decay

# %%
Image(LESSONS / "decay.png", width=700)

# %% [markdown]
# What each kind of weight has lost in one step. How does a name get to decide that?

# %% [markdown]
# **Predict:** with a warm-up, what does the first batch teach the model? And what is the rate of the last step?

# %%
# !{plainloop} lesson schedule

# %%
Image(LESSONS / "schedule.png", width=700)

# %% [markdown]
# How far the weights move in each step. Which two steps are for nothing?

# %% [markdown]
# **Exercise.** The groups of parameters of an optimizer: which are decayed, by what they are and not by how they are called.

# %%
# !{plainloop} lesson decay --exercise

# %%
print(Path("decay_exercise.py").read_text(encoding="utf-8"))

# %% [markdown]
# Open `decay_exercise.py` (it lies beside this notebook), change it, and check it as often as you like. As it was handed out, it is wrong:

# %%
# !{plainloop} lesson decay --check decay_exercise.py

# %% [markdown]
# **Exercise.** A rate for each step, with a warm-up; the first step should teach something, and the last one, too.

# %%
# !{plainloop} lesson schedule --exercise

# %%
print(Path("schedule_exercise.py").read_text(encoding="utf-8"))

# %% [markdown]
# Open `schedule_exercise.py` (it lies beside this notebook), change it, and check it as often as you like. As it was handed out, it is wrong:

# %%
# !{plainloop} lesson schedule --check schedule_exercise.py

# %% [markdown]
# **Look inside a script of your own.** `xray` reads the TrainingArguments of a script, which it does not run, and says what they will do. Put yours in place of this one.

# %%
SCRIPT = """from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=2)
args = TrainingArguments("out", per_device_train_batch_size=16, gradient_accumulation_steps=4, num_train_epochs=3, warmup_ratio=0.1)
Trainer(model, args, train_dataset=train, eval_dataset=test).train()
"""
_ = Path("train.py").write_text(SCRIPT, encoding="utf-8")

# %%
# !{plainloop} xray train.py --num-rows 25000

# %% [markdown]
# **Kill it.** A run with a checkpoint every 4 steps is killed in the middle (`kill -9`: it gets no time for anything), and started again with `--resume`.
# Beside it, the same run undisturbed.

# %%
import json
import shlex
import time

RUN = f"{plainloop} --task yelp --max-train-examples 128 --max-eval-examples 32 --max-length 32 --epochs 2 --save-steps 4 --log-steps 1"


def start(folder, *more):
    """The run in a process of its own."""
    words = [*shlex.split(RUN), "--output-dir", f"runs/{folder}", *more]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps(folder):
    """The train lines of its log."""
    path = Path(f"runs/{folder}/metrics.jsonl")
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


killed = start("killed")
while len(steps("killed")) < 7 and killed.poll() is None:
    time.sleep(0.05)
killed.kill()
print("killed after", steps("killed")[-1], "with exit code", killed.wait())
print("resumed:", start("killed", "--resume").wait(), "undisturbed:", start("whole").wait())

# %% [markdown]
# The same steps, with the same losses, to the last bit? And nowhere a step that stands twice?

# %%
steps("killed") == steps("whole"), steps("whole")[-1]
