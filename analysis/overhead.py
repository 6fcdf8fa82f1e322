# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a method costs: time and memory
# Any profile's results: set `DAPBENCH_PROFILE` (default `quick`) and, if they lie elsewhere, `DAPBENCH_RESULTS`.

# %%
from dapbench.report import study_figures, study_tables
from dapbench.report.results import open_results

results = open_results()

# %%
study_tables.speed(results)

# %%
study_tables.overhead(results)

# %%
study_figures.time_parts(results)

# %%
study_figures.memory(results)
