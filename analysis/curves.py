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
# # Learning curves and sample efficiency
# Any profile's results: set `DAPBENCH_PROFILE` (default `quick`) and, if they lie elsewhere, `DAPBENCH_RESULTS`.

# %%
from dapbench.report import figures
from dapbench.report.results import open_results

results = open_results()

# %%
figures.learning_curves(results)

# %%
figures.evaluation_curves(results)

# %%
figures.sample_efficiency(results)

# %%
figures.performance_profile(results)

# %%
figures.improvement(results)
