# %% [markdown]
# # A small student, and what to ship
#
# Settings are those of `train`, typed behind the script's name: `data.root=/my/images trainer.max_epochs=20`; they hold
# for teacher and student. `teacher_model=resnet50` chooses another teacher, `temperatures=[2,4,8]`, `alphas=[0.3,0.7]`
# and `seeds=[0,1,2]` make a grid.

# %%
import shutil
import sys
from pathlib import Path

from classifier_training.cli import perform
from classifier_training.workflows.research import write_recommendations

WORDS = [word for word in sys.argv[1:] if not word.startswith("-")]
TEACHER = next((word.partition("=")[2] for word in WORDS if word.startswith("teacher_model=")), "resnet18")
OWN = ("temperatures", "alphas", "hint_weights", "seeds", "teacher_model")
GRID = [word for word in WORDS if word.partition("=")[0] in OWN[:-1]]
SETTINGS = [word for word in WORDS if word.partition("=")[0] not in OWN]
TRAINING = [word for word in SETTINGS if not word.startswith(("data", "model", "experiment"))]
FOLDER = Path("research")
# A notebook has no file. With one, each process that reads or paints images would begin by running all of this.
globals().pop("__file__", None)

# %% [markdown]
# ## The teacher

# %%
teacher = perform("train", [f"model={TEACHER}", *SETTINGS, f"output={FOLDER / 'teacher'}"])
print(teacher)

# %% [markdown]
# ## The student: alone, and with the teacher, on the teacher's data and splits

# %%
result = perform("distill", [f"teacher={teacher.run_dir.path}", *GRID, *TRAINING, f"output={FOLDER}"])
print(result)
shutil.copy(result.folder / "distillation.png", FOLDER / "distillation_analysis.png")

# %% [markdown]
# ## What to ship
#
# The verb `benchmark` says more: latency of each format, quantisation, recommendations for each kind of machine.

# %%
write_recommendations(FOLDER / "deployment_recommendations.md", result)
