# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Restaurant reviews: positive or negative?
#
# Fine-tune a pretrained encoder to tell good reviews from bad ones, look at how it went, and use it. A few minutes on two cores.
# Where the Hub can be reached, data and model come from there; elsewhere from the `offline` extra, and the first lines say so.

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
    wanted = f"plainloop[offline] @ {place}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)
plainloop = f'"{sys.executable}" -m plainloop'  # the command, of the same Python

# %%
from plainloop import Source, SourceConfig, TrainConfig, find, fit, open_model, quiet_libraries

quiet_libraries()  # no bars and reports of the libraries between our own lines

# %% [markdown]
# A run is two things: a **task**, which knows data, model, loss and metrics, and **settings** of the training. Small here, so that it is
# quick: 600 reviews to learn from, 200 to measure with, each cut to 96 tokens, read once.

# %%
Yelp = find("yelp")
task = Yelp(Yelp.Options(max_length=96), Source(SourceConfig(max_train_examples=600, max_eval_examples=200)))
settings = TrainConfig(task="yelp", output_dir="runs/yelp", epochs=1, learning_rate=1e-4, log_steps=5)
result = fit(task, settings)

# %% [markdown]
# **What to look at.** The lines at the start say what was taken, cut and padded, and which answer is to be beaten: the one that is always the
# same. In the table, `loss` begins near ln 2 = 0.69, where a model that knows nothing about two classes stands, and should fall; `lr` falls
# in a line to 0. `grad_norm` is the length of the gradient before it is clipped to 1.
#
# The result knows its metrics and its curves:

# %%
result

# %% [markdown]
# The whole report: hold the mouse over a chart for its values, drag to zoom. It is also a file, `runs/yelp/report.html`.

# %%
result.report()

# %% [markdown]
# **Use it.** What was saved is an ordinary model directory, which `transformers` loads, too. `open_model` also brings the task back, so that texts
# are prepared as they were in training.

# %%
saved, model, layout = open_model(str(result.directory), find)
texts = ["Great tacos, slow service.", "Cold food, rude waiter.", "We will be back!"]
for text, answer in zip(texts, saved.predict(model, texts, layout), strict=True):
    print(saved.describe(answer), text, sep="\t")

# %% [markdown]
# **Again?** The same settings and data give the same model, so a finished run is found and not repeated. Change `epochs` and see what it says.

# %%
fit(task, settings).skipped

# %% [markdown]
# Everything here is also a command, for a script or a machine without notebooks:

# %%
# !{plainloop} predict runs/yelp "Great tacos, slow service."
