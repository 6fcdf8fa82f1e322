"""`python -m dapbench` is the `dapbench` command."""

from dapbench.cli import main

main()
