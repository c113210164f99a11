# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Session 2: randomness
#
# Where random numbers come from, who draws them, and what a seed fixes. For each experiment: write your prediction down, run the cell, then look. The whole course is in `docs/course.md`.

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
# **Predict:** the same script with the same seed, started twice. Is the new head the same?

# %%
# !{plainloop} lesson seed

# %%
Image(LESSONS / "seed.png", width=700)

# %% [markdown]
# Two runs that should lie on each other. What was drawn before the seed was set?

# %% [markdown]
# **Predict:** you train with seeds 42, 43 and 44 to see the spread. How many of their epochs read the rows in the same order?

# %%
# !{plainloop} lesson order

# %%
Image(LESSONS / "order.png", width=700)

# %% [markdown]
# Which epochs of which seeds are alike. What does that do to a spread over three seeds?

# %% [markdown]
# **Predict:** does it change the weights how often you evaluate?

# %%
# !{plainloop} lesson looking

# %%
Image(LESSONS / "looking.png", width=700)

# %% [markdown]
# Two runs that part where the first evaluation was. Who drew a random number there?

# %% [markdown]
# **Predict:** a run with grouping by length is stopped and resumed in its second epoch. How many rows does it read twice?

# %%
# !{plainloop} lesson resume

# %%
Image(LESSONS / "resume.png", width=700)

# %% [markdown]
# How often each row was read. What would a checkpoint have to hold for this to be right?

# %% [markdown]
# **Exercise.** An order of the rows for each seed and epoch. Seed plus epoch is the first idea; the lesson `order` is why it is not enough.

# %%
# !{plainloop} lesson order --exercise

# %%
print(Path("order_exercise.py").read_text(encoding="utf-8"))

# %% [markdown]
# Open `order_exercise.py` (it lies beside this notebook), change it, and check it as often as you like. As it was handed out, it is wrong:

# %%
# !{plainloop} lesson order --check order_exercise.py
