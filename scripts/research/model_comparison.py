# %% [markdown]
# # Models on the same data
#
# Settings are those of `train`, typed behind the script's name: `data.root=/my/images trainer.max_epochs=20`. Without
# data, the built-in digits. `models=resnet18,student` chooses others.

# %%
import sys
from pathlib import Path

from classifier_training.workflows.research import compare_models

WORDS = [word for word in sys.argv[1:] if not word.startswith("-")]
CHOSEN = next((word.partition("=")[2] for word in WORDS if word.startswith("models=")), "student,cnn_v1,resnet18")
SETTINGS = [word for word in WORDS if not word.startswith("models=")]
FOLDER = Path("research")
# A notebook has no file. With one, each process that reads or paints images would begin by running all of this.
globals().pop("__file__", None)

# %% [markdown]
# ## Trained, and compared by accuracy, precision, recall and ROC
#
# The verbs `compare` (seeds, several data sets, parallel jobs) and `benchmark` (latency by format) say more.

# %%
comparison = compare_models([f"model={name}" for name in CHOSEN.split(",")], SETTINGS, FOLDER)
print(comparison)

# %% [markdown]
# ## The best model
#
# Its confusion matrix, errors and figures with intervals lie in its `evaluation/`.

# %%
print(comparison.runs[comparison.best].run_dir.evaluation)
