"""Found by Hydra, in DVC's processes too, through `hydra.plugins_path` in .dvc/config."""

from pathlib import Path

from dapbench.pipeline.catalogue import register

register(Path(__file__).parents[3] / "conf")
