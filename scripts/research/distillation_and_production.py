# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Distillation and production
#
# A teacher, small students of it in several configurations, and what to deploy. Outputs, all in `research/`:
# `distillation_analysis.png` and `deployment_recommendations.md`; the runs lie there, too.
#
# In a notebook, edit the next cell. As a script, type settings behind its name:
# `python scripts/research/distillation_and_production.py teacher_model=resnet50 temperatures=2 data.root=/my/images`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from research_helpers import FOLDER, read_csv, read_json, save, tidy, typed

from classifier_training.cli import perform

# %% tags=["parameters"]
TEACHER_MODEL = "auto"
TEMPERATURES = ["2", "4"]
ALPHAS = ["0.7"]
SEEDS = ["0"]
FORMATS = ["eager", "onnx", "fp16", "int8"]
# Of train, for teacher and students, such as ["data.root=/my/images", "trainer.max_epochs=20"].
SETTINGS: list[str] = []

# %%
SETTINGS, own = typed(
    SETTINGS,
    teacher_model=[TEACHER_MODEL],
    temperatures=TEMPERATURES,
    alphas=ALPHAS,
    seeds=SEEDS,
    formats=FORMATS,
)
GRID = [f"{name}=[{','.join(own[name])}]" for name in ("temperatures", "alphas", "seeds")]
# The students take data and splits from the teacher.
TRAINING = [word for word in SETTINGS if not word.startswith(("data", "model", "experiment"))]

# %% [markdown]
# ## The teacher

# %%
teacher = perform("train", [f"model={own['teacher_model'][0]}", *SETTINGS, f"output={FOLDER / 'teacher'}"])
print(teacher)

# %% [markdown]
# ## The students
#
# One run for each temperature, alpha and seed, and one without a teacher for each seed, on the teacher's data and
# splits.

# %%
result = perform("distill", [f"teacher={teacher.run_dir.path}", *GRID, *TRAINING, f"output={FOLDER}"])
print(result)
found = read_json(result.folder / "distillation.json")
students = read_csv(result.folder / "distillation.csv")

# %% [markdown]
# ## What the teacher brings
#
# `agreement` is the share of images to which student and teacher give the same class. An accuracy within the spread of
# the seeds of the student without a teacher is no gain.


# %%
def title(row: dict[str, str]) -> str:
    """The configuration of a student."""
    return f"T {row['temperature']}, alpha {row['alpha']}" if row["temperature"] else "no teacher"


ways = list(dict.fromkeys(title(row) for row in students))
costs = {"teacher": found["teacher"], "student": found["student"]}
figure, panels = plt.subplots(2, 2, figsize=(12, 8))
for axes, name in ((panels[0, 0], "accuracy"), (panels[0, 1], "agreement")):
    values = [[float(row[name]) for row in students if title(row) == way] for way in ways]
    axes.barh(ways, [np.mean(one) for one in values], alpha=0.5)
    for place, one in enumerate(values):
        axes.plot(one, [place] * len(one), "o", color="tab:blue")
    axes.set_xlim(max(0.0, min(map(min, values)) - 0.1), 1)
    tidy(axes, f"{name} of the students; a dot is a run")
panels[0, 0].axvline(costs["teacher"]["accuracy"], color="tab:orange", linestyle="--", label="teacher")
panels[0, 0].legend(frameon=False)
panels[0, 1].set_yticks(range(len(ways)), [""] * len(ways))
for axes, name, unit in (
    (panels[1, 0], "size_mb", "Size, MB"),
    (panels[1, 1], "latency_ms", "Latency of one image, ms"),
):
    both = [float(cost[name]) for cost in costs.values()]
    axes.bar_label(axes.bar(list(costs), both), fmt="%.2f")
    tidy(axes, f"{unit}: the teacher takes {both[0] / both[1]:.1f} times as much")
print(save(figure, "distillation_analysis.png"))

# %% [markdown]
# ## Production
#
# The best student by validation, in each form: latency, throughput, memory, size and accuracy on this CPU.

# %%
taught = [row for row in students if row["temperature"]] or students
chosen = max(taught, key=lambda row: float(row["validation"]))
benchmark = perform(
    "benchmark", [f"run={chosen['run']}", f"formats=[{','.join(own['formats'])}]", f"output={FOLDER / 'benchmark'}"]
)
print(benchmark)

# %% [markdown]
# ## What to deploy

# %%
lines = [
    "# Deployment recommendations",
    "",
    "## Teacher or student",
    "",
    found["words"],
    "",
    "| network | accuracy | size | one image, CPU |",
    "|---|---|---|---|",
    *(
        f"| {name} | {cost['accuracy']:.2%} | {cost['size_mb']:.2f} MB | {cost['latency_ms']:.2f} ms |"
        for name, cost in costs.items()
    ),
    "",
    f"## The student in {chosen['run']}",
    "",
]
advice = (benchmark.folder / "deployment_recommendations.md").read_text(encoding="utf-8").splitlines()
lines += [f"#{line}" if line.startswith("##") else line for line in advice if not line.startswith("# ")]
recommendations = FOLDER / "deployment_recommendations.md"
recommendations.write_text("\n".join(lines) + "\n", encoding="utf-8")
print(Path(recommendations))
