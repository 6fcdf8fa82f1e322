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
# # The claims on trial, returns, differences and aggregates
# Any profile's results: set `DAPBENCH_PROFILE` (default `quick`) and, if they lie elsewhere, `DAPBENCH_RESULTS`.

# %%
from dapbench.report import claims, figures, settings_tables, tables
from dapbench.report.results import open_results

results = open_results()

# %%
claims.claims(results)

# %%
claims.claims_by_task(results)

# %%
claims.claims_of_variants(results)

# %%
tables.difference(results)

# %%
tables.alc40(results)

# %%
tables.final_return(results)

# %%
tables.eval_return(results)

# %%
figures.alc40_intervals(results)

# %%
figures.final_return_intervals(results)

# %%
tables.wins(results)

# %%
tables.aggregates(results)

# %%
settings_tables.published(results)
