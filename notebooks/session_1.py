# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Session 1: what a step is
#
# What one optimizer step computes, and what divides the gradient. Read `docs/the-loop.md` before, it is one page. For each experiment: write your prediction down, run the cell, then look. The whole course is in `docs/course.md`.

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
# **Predict:** a batch of 12 rows is cut into 6 pieces of 2, and the gradients are added up. How much larger does Trainer's gradient become for BERT?

# %%
# !{plainloop} lesson accumulation

# %%
Image(LESSONS / "accumulation.png", width=700)

# %% [markdown]
# The bars should all have one height. Why does AdamW hide the difference, and SGD not? (What does Adam do to a gradient that is six times as large in every step?)

# %% [markdown]
# **Predict:** somebody overrides `compute_loss` and returns a mean. What divides it now?

# %%
# !{plainloop} lesson num-items

# %%
Image(LESSONS / "num-items.png", width=700)

# %% [markdown]
# How far four ways to compute one gradient are from the true one. Which of them is right for every way to cut a batch?

# %% [markdown]
# **Predict:** two language models, the same rows; one class is called `LlamaForCausalLM`, the other `GPT2LMHeadModel`. Does it matter?

# %%
# !{plainloop} lesson class-name

# %%
Image(LESSONS / "class-name.png", width=700)

# %% [markdown]
# The share of the true gradient over the length of the rows. From which length on is it too small to see?

# %% [markdown]
# **Predict:** does `grad_norm` in the log show the gradient before clipping or after? How many of 12 steps are clipped if nobody asked for it?

# %%
# !{plainloop} lesson clipping

# %%
Image(LESSONS / "clipping.png", width=700)

# %% [markdown]
# The norm in the log over the norm that the optimizer got. What would you see in the log if clipping were off?

# %% [markdown]
# **Exercise.** A step over several micro-batches whose gradient is that of one large batch. The hard part is the short last one.

# %%
# !{plainloop} lesson accumulation --exercise

# %%
print(Path("accumulation_exercise.py").read_text(encoding="utf-8"))

# %% [markdown]
# Open `accumulation_exercise.py` (it lies beside this notebook), change it, and check it as often as you like. As it was handed out, it is wrong:

# %%
# !{plainloop} lesson accumulation --check accumulation_exercise.py
