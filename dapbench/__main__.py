"""`python -m dapbench` is the `dapbench` command."""

from dapbench.cli import main

if __name__ == "__main__":  # and not where multiprocessing imports the main module anew
    main()
