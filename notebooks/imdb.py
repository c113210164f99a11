# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Film reviews: keep the best epoch, and see what it gets wrong
#
# The same kind of task as in the notebook `yelp`, and what comes after a first run: several epochs of which the best is kept, and a look at the mistakes.
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
from plainloop import Source, SourceConfig, TrainConfig, find, fit, quiet_libraries

quiet_libraries()  # no bars and reports of the libraries between our own lines

# %% [markdown]
# Three epochs, each measured. `best_metric` says which figure decides, `patience=1` stops when one epoch brings no better one. What is kept
# is the model of the best epoch, not of the last.

# %%
Imdb = find("imdb")
task = Imdb(Imdb.Options(max_length=96), Source(SourceConfig(max_train_examples=400, max_eval_examples=300)))
settings = TrainConfig(
    task="imdb", output_dir="runs/imdb", epochs=3, learning_rate=1e-4, best_metric="accuracy", patience=1, log_steps=8
)
result = fit(task, settings)

# %% [markdown]
# **What to look at.** Compare the last `loss` of an epoch with its `eval loss`. While both fall, the model learns something that holds for
# reviews it has not seen. When the first goes on falling and the second rises, it learns these reviews by heart: that is what `patience` is for.
# The accuracy is a share of 300 rows, so its standard error is about 0.025: a difference of one point means nothing.

# %%
result

# %% [markdown]
# **Which mistakes?** `evaluate --errors` writes the rows that the model gets wrong, the surest first. The surest mistakes are worth reading: they are
# wrong labels, irony, or something that the model cannot know.

# %%
# !{plainloop} evaluate --model runs/imdb --errors mistakes.csv

# %%
import csv

with open("mistakes.csv", encoding="utf-8", newline="") as stream:
    for row in list(csv.DictReader(stream))[:3]:
        print({name: value[:300] for name, value in row.items()}, "\n")

# %% [markdown]
# **Better?** Other learning rates are tried with `plainloop sweep`, and `plainloop compare` says whether two runs differ by more than chance.
# A loss on words that are cut off cannot be learned: try `max_length=256`, which takes longer.
