# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Embeddings and search
#
# A model that turns a text into a vector, so that texts that belong together point the same way. It is trained on pairs: each text has to find its
# partner among all those of its batch. Where the Hub can be reached, data and model come from there; elsewhere from the `offline` extra, and the first lines say so.

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
# The larger the batch, the harder the question (one partner among 32), and the more a step teaches. Batches are never put together from pieces here:
# `accumulation_steps` would ask an easier question, and the lines at the start say so.

# %%
Embeddings = find("embeddings")
task = Embeddings(Embeddings.Options(max_length=64), Source(SourceConfig(max_train_examples=600, max_eval_examples=300)))
result = fit(task, TrainConfig(task="embeddings", output_dir="runs/embeddings", batch_size=32, epochs=1, log_steps=5))

# %% [markdown]
# **What to look at.** `recall@10`: for how many texts the partner is among the ten nearest of *all* held-out ones; `mrr`: the mean of 1 / its rank.
# Both get harder with more rows, and do not depend on the batch. The start is a model that was trained on a billion pairs, so the gain is small;
# the report has the whole curve.

# %%
result

# %% [markdown]
# Vectors by hand. They have length 1, so a scalar product is a cosine.

# %%
import numpy as np

saved, model, layout = open_model(str(result.directory), find)
texts = ["a film about trains", "The whole story plays on a railway.", "The actors were dreadful.", "Nobody in it can act."]
vectors = np.array([found["embedding"] for found in saved.predict(model, texts, layout)])
np.round(vectors @ vectors.T, 2)

# %% [markdown]
# The two about trains and the two about acting should be nearest. The same over a file of texts is `search`; the vectors of the file are kept, so a second query is quick.

# %%
from tasks.classification.imdb import packaged_imdb

reviews = [" ".join(text.split()) for text in list(packaged_imdb())[:200]]
_ = Path("reviews.txt").write_text("\n".join(reviews), encoding="utf-8")

# %%
# !{plainloop} search --model runs/embeddings --corpus reviews.txt --top-k 2 "a film about trains" "wonderful music"

# %% [markdown]
# Did training help, on sentences of your own? Both models, side by side:

# %%
# !{plainloop} compare-models --models auto runs/embeddings
