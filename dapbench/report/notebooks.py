"""Runs the percent scripts of analysis/ and exports them as .ipynb and .html, the same bytes each time."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dapbench.config import CONF
from dapbench.errors import UserError
from dapbench.files import write_json, write_text

ANALYSIS = CONF.parent / "analysis"


def export_notebooks(
    folder: Path, results_dir: Path, profile: Mapping[str, Any], sources: Path = ANALYSIS
) -> list[Path]:
    """Executes every notebook of ``sources`` on a profile's results.

    Args:
        folder: where <name>.ipynb and <name>.html go.
        results_dir: the root of all profiles' results.
        profile: composed; the kernels read this very one, whatever conf/ says by then.

    Returns:
        The html files; none where the package is installed without the repository's analysis/.

    Raises:
        UserError: a cell fails; the notebook and the error are named.
    """
    import jupytext
    import nbformat
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbconvert import HTMLExporter

    # No addresses: the page opens offline and asks nobody for anything.
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    pages = []
    with tempfile.TemporaryDirectory() as scratch:
        write_json(Path(scratch) / "profile.json", dict(profile))
        environment = {**os.environ, "DAPBENCH_RESULTS": str(Path(results_dir).resolve())}
        environment |= {"DAPBENCH_PROFILE": str(Path(scratch) / "profile.json")}
        environment |= {"IPYTHONDIR": scratch, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        for source in sorted(sources.glob("*.py")):
            notebook = jupytext.read(source, fmt="py:percent")
            notebook.nbformat, notebook.nbformat_minor = 4, 5
            for position, cell in enumerate(notebook.cells):
                cell["id"] = f"cell-{position}"
            # This very Python, and no file in the home folder: the user's kernel "python3" may be another's.
            kernel = AsyncKernelManager(
                kernel_name="python3",
                kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
                connection_file=str(Path(scratch) / f"{source.stem}.json"),
            )
            client = NotebookClient(
                notebook,
                km=kernel,
                timeout=600,
                record_timing=False,
                extra_arguments=["--log-level=ERROR"],
            )
            try:
                client.execute(env=environment, cleanup_kc=True)
            except CellExecutionError as error:
                raise UserError(f"{source} does not run: {error.ename}: {error.evalue}") from error
            page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": source.stem}})
            write_text(folder / f"{source.stem}.ipynb", nbformat.writes(notebook) + "\n")
            write_text(folder / f"{source.stem}.html", page)
            pages.append(folder / f"{source.stem}.html")
    return pages
