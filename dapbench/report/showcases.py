"""What `dapbench showcase` left of the runs: reading its files, and the films among them."""

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from dapbench.files import withheld
from dapbench.report.items import Absent, films
from dapbench.report.results import BASELINE, KEY, SUBJECT, Results, malformed, read_json
from dapbench.report.style import digits, listed, number

KINDS = {"film_seconds": int | float, "made": list, "absent": dict}
Name = TypeVar("Name")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Showcase:
    """The files that show one run of a method on a task.

    Attributes:
        folder: where they lie.
        method: of the run.
        seed: of the run.
        film_seconds: of the task's own time.
        made: the names of the files.
        absent: for each file that was not made, why.
    """

    folder: Path
    method: str
    seed: int
    film_seconds: float
    made: list[str]
    absent: dict[str, str]

    def path(self, name: str, what: str) -> Path:
        """The path of a file, in which lies ``what`` (a plural).

        Raises:
            Absent: it was not made.
        """
        if name not in self.made:
            raise Absent(f"There are no {what}: {self.absent.get(name, 'dapbench showcase does not say why')}.")
        return self.folder / name

    def arrays(self, name: str, what: str, axes: dict[str, int]) -> dict[str, np.ndarray]:
        """The arrays of an .npz by name, of which ``axes`` gives the number of axes.

        Raises:
            Absent: it was not made.
            UserError: it is malformed.
        """
        path = self.path(name, what)
        try:
            with np.load(path) as file:
                arrays = {key: file[key] for key in axes}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise withheld(path, error) or malformed(
                path, f"is not a readable .npz with {', '.join(axes)} ({error})"
            ) from error
        for key, array in arrays.items():
            if array.ndim != axes[key] or not array.size or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise malformed(path, f"holds no finite numbers along {axes[key]} axes as {key}")
        return arrays


def read_showcase(results: Results, task: str, method: str) -> Showcase:
    """The showcase of a method on a task.

    Raises:
        Absent: there is no run or no showcase of it.
        UserError: its showcase.json is malformed or of another run.
    """
    where = f"{results.titles[method]} on {results.titles[task]}"
    runs = results.summaries[(results.summaries.task == task) & (results.summaries.method == method)]
    if runs.empty:
        raise Absent(f"There are no runs of {where}.")
    folder = results.folder / "showcase" / task / method
    path = folder / "showcase.json"
    if not path.exists():
        raise Absent(f"There is no showcase of {where} (dapbench showcase makes it of a run with its model.ckpt).")
    content = read_json(path, [*KEY, *KINDS])
    wrong = [key for key, kind in KINDS.items() if not isinstance(content[key], kind)]
    if wrong:
        raise malformed(path, f"holds something of another kind in {', '.join(wrong)}")
    if [content["task"], content["method"]] != [task, method] or content["seed"] not in set(runs.seed):
        found = " ".join(str(content[key]) for key in KEY)
        raise malformed(path, f"is of another run ({found})")
    return Showcase(folder, method, content["seed"], content["film_seconds"], content["made"], content["absent"])


def gather(names: Iterable[Name], read: Callable[[Name], Found]) -> tuple[dict[Name, Found], str]:
    """What ``read`` finds for each name, and the end of a sentence that says what is not there and why.

    Raises:
        Absent: it finds nothing for any.
    """
    found: dict[Name, Found] = {}
    reasons: dict[str, None] = {}
    for name in names:
        try:
            found[name] = read(name)
        except Absent as reason:
            reasons[str(reason)] = None
    if not found:
        raise Absent(" ".join(reasons) or "No run ended.")
    return found, f" Without: {' '.join(reasons)}" if reasons else ""


@films("films", "What the policies do")
def policy_films(results: Results) -> tuple:
    """A film of PPO and one of PPO-DAP on each task."""
    methods = [method for method in (BASELINE, SUBJECT) if method in results.methods]
    if not methods:
        raise Absent(f"There are no runs of {listed(results.titles[m] for m in (BASELINE, SUBJECT))}.")

    def read(name: tuple[str, str]) -> tuple[Showcase, bytes]:
        shown = read_showcase(results, *name)
        path = shown.path("film.gif", "films")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise withheld(path, error) or malformed(path, f"cannot be read ({error.strerror})") from error
        if not content.startswith(b"GIF8"):
            raise malformed(path, "is not a gif")
        return shown, content

    found, lacking = gather([(task, method) for task in results.tasks for method in methods], read)
    scores = results.summaries.set_index(KEY).eval_return
    gifs = {}
    for (task, method), (shown, content) in found.items():
        score = scores[task, method, shown.seed]
        caption = f"{results.titles[task]}, {results.titles[method]}: {number(score, digits([score]))}"
        gifs[f"{task}_{method}", caption] = content
    seconds = listed(sorted({f"{shown.film_seconds:g}" for shown, _ in found.values()}))
    sentence = (
        f"The mean action of one run's policy at the end of its budget, in the first {seconds} s of the task's own"
    )
    sentence += " time from a start of its own; an episode that ends is followed by the next. Numbers: the evaluation"
    return f"{sentence} return of the run shown.{lacking}", gifs
