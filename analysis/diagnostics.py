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
# # The dual-proximal view, measured
# The policy's KL is bounded by PPO, the prior's drift by its tuning; the lower bound's terms stand against what the
# return did. Any profile's results: set `DAPBENCH_PROFILE` (default `quick`) and, if they lie elsewhere,
# `DAPBENCH_RESULTS`.

# %%
from dapbench.report import study_figures
from dapbench.report.results import SUBJECT, open_results

results = open_results()

# %%
study_figures.diagnostics(results)

# %% [markdown]
# The columns of PPO-DAP's curves, averaged over runs:

# %%
own = results.curves[results.curves.method == SUBJECT].drop(columns=["task", "method", "seed"])
own.groupby("epoch").mean().round(4)
