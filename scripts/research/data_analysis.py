# %% [markdown]
# # The data and the models that could learn it
#
# Settings are those of `analyze`, typed behind the script's name: `data.root=/my/images data.image_size=32`. Without
# any, the built-in digits. All images go to `research/`.

# %%
import sys
from pathlib import Path

from classifier_training.cli import perform
from classifier_training.workflows.research import draw_pipeline, draw_requirements

WORDS = [word for word in sys.argv[1:] if not word.startswith("-")]
DATA = [word for word in WORDS if word.startswith("data")] or ["data=digits"]
SIZE = next((int(word.partition("=")[2]) for word in DATA if word.startswith("data.image_size=")), 32)
FOLDER = Path("research")
# A notebook has no file. With one, each process that reads or paints images would begin by running all of this.
globals().pop("__file__", None)

# %% [markdown]
# ## The way from data to product

# %%
draw_pipeline(FOLDER / "pipeline_overview.png")

# %% [markdown]
# ## What is in the data, and what is wrong with it
#
# Class balance, image sizes, brightness, copies and leaks: `research/data/report.html` and its plots.

# %%
print(perform("analyze", [*DATA, f"output={FOLDER / 'data'}"]))

# %% [markdown]
# ## What models take

# %%
draw_requirements(FOLDER / "model_requirements.png", image_size=SIZE)
