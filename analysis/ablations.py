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
# # Ablations, controls, and the draws and the quality of the logs
# Any profile's results: set `DAPBENCH_PROFILE` (default `quick`) and, if they lie elsewhere, `DAPBENCH_RESULTS`.

# %%
from dapbench.report import study_figures, study_tables
from dapbench.report.results import open_results

results = open_results()

# %%
study_tables.ablations(results)

# %%
study_figures.ablation_bars(results)

# %%
study_tables.controls(results)

# %%
study_tables.priors(results)

# %%
study_figures.log_draws(results)

# %%
study_tables.log_qualities(results)

# %%
study_figures.log_quality_curve(results)
