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
# # The proposals of PPO-DAP's prior
# Before and after guidance by Q, and beside the policy and the logs, from what `dapbench showcase` left of one run a
# task. Any profile's results: set `DAPBENCH_PROFILE` (default `quick`) and, if they lie elsewhere, `DAPBENCH_RESULTS`.

# %%
from dapbench.report import proposal_items
from dapbench.report.results import open_results

results = open_results()

# %%
proposal_items.proposals(results)

# %%
proposal_items.proposal_map(results)

# %%
proposal_items.action_marginals(results)
