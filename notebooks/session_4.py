# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Session 4: precision
#
# What is lost where numbers have few bits, and what the log does not say. For each experiment: write your prediction down, run the cell, then look. The whole course is in `docs/course.md`.

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
# **Predict:** bf16 keeps 8 bits. A weight of 0.1 and a step of 2e-5: what comes out?

# %%
# !{plainloop} lesson half-weights

# %%
Image(LESSONS / "half-weights.png", width=700)

# %% [markdown]
# The share of the weights that never moved. Why does nothing in the loss curve say so at first?

# %% [markdown]
# **Predict:** the first steps of a run in fp16: how many of them learn nothing? Does the log say so?

# %%
# !{plainloop} lesson fp16

# %%
Image(LESSONS / "fp16.png", width=700)

# %% [markdown]
# The loss scale, halved until it fits, and the learning rate beside it. Which went on while nothing was learned?

# %% [markdown]
# **Predict:** one label in 64 rows is missing. What does the log show from there on?

# %%
# !{plainloop} lesson nan

# %%
Image(LESSONS / "nan.png", width=700)

# %% [markdown]
# A loss that goes to zero, which nobody would complain about. What does Plainloop do instead? (A line, and exit code 5.)

# %% [markdown]
# **Exercise.** Clipping in fp16: the norm that counts is that of the true gradients. The check also sends a gradient that overflows.

# %%
# !{plainloop} lesson clipping --exercise

# %%
print(Path("clipping_exercise.py").read_text(encoding="utf-8"))

# %% [markdown]
# Open `clipping_exercise.py` (it lies beside this notebook), change it, and check it as often as you like. As it was handed out, it is wrong:

# %%
# !{plainloop} lesson clipping --check clipping_exercise.py
