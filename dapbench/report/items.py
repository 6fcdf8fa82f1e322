"""Tables, figures and films as items of the report: a title, a sentence computed from the data, and what is shown.

A function that makes one is decorated with `table`, `figure` or `films`, and raises `Absent` where its data are not
there. All items show themselves in Jupyter.
"""

import functools
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import matplotlib as mpl
import matplotlib.figure
import pandas as pd

from dapbench.files import whole
from dapbench.report.results import Results
from dapbench.report.templates import data_url, render


class Absent(Exception):
    """An item has no data to be made of; the message is the sentence that stands in its place."""


@dataclass(frozen=True, repr=False)
class Item:
    """What every item has: the stem of its files, its title and its sentence."""

    name: str
    title: str
    sentence: str
    kind: ClassVar[str]  # chooses the part of item.html.j2 that shows the item

    def files(self) -> dict[str, str]:
        """The place of each of the item's files below the report, by what a link to it says."""
        return {}

    def contents(self) -> list[bytes]:
        """What is in each of the files."""
        return []

    def save(self, folder: Path) -> None:
        """Writes the item's files under ``folder``."""
        for place, content in zip(self.files().values(), self.contents(), strict=True):
            with whole(folder / place) as temporary:
                temporary.write_bytes(content)

    def __repr__(self) -> str:
        return f"{self.title}: {self.sentence}"

    def _repr_html_(self) -> str:
        return render("item.html.j2", item=self)


@dataclass(frozen=True, repr=False)
class Skipped(Item):
    """An item without data."""

    kind = "skipped"


@dataclass(frozen=True, repr=False)
class Table(Item):
    """A table.

    Attributes:
        shown: the cells as text; ``**x**`` is bold.
        values: the numbers behind it, tidy and unrounded; written as csv.
        note: how to read it.
    """

    shown: pd.DataFrame
    values: pd.DataFrame
    note: str = ""
    kind = "table"

    @property
    def rows(self) -> list[list[str]]:
        """The cells as text, row by row."""
        return self.shown.astype(str).to_numpy().tolist()

    def files(self) -> dict[str, str]:
        """The table's csv, md and tex."""
        return {form: f"tables/{self.name}.{form}" for form in ("csv", "md", "tex")}

    def contents(self) -> list[bytes]:
        """The values as csv, and what is shown as md and tex."""
        return [text.encode() for text in (self.values.to_csv(index=False), self.markdown(), self.latex())]

    def markdown(self) -> str:
        """The table in GitHub's Markdown, its columns padded."""
        rows = [[str(name) for name in self.shown], *self.rows]
        head, *body = padded([[cell.replace("|", "\\|") for cell in row] for row in rows])
        lines = [f"| {' | '.join(row)} |" for row in (head, ["-" * len(cell) for cell in head], *body)]
        return "\n\n".join(filter(None, [f"**{self.title}.** {self.sentence}", "\n".join(lines), self.note])) + "\n"

    def latex(self) -> str:
        """The table as a LaTeX float; it needs the packages booktabs and graphicx."""
        rows = [" & ".join(map(_latex, row)) + r" \\" for row in self.rows]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(' '.join(filter(None, [f'{self.title}.', self.sentence, self.note])))}}}",
            rf"\label{{tab:{self.name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{",
            rf"\begin{{tabular}}{{l{'r' * (len(self.shown.columns) - 1)}}}",
            r"\toprule",
            " & ".join(_latex(str(name)) for name in self.shown) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, repr=False)
class Figure(Item):
    """A figure."""

    figure: matplotlib.figure.Figure
    cache: dict[str, bytes] = field(default_factory=dict)
    kind = "figure"

    # Without dates and version, and with ids drawn from a fixed salt, a figure's bytes depend on its data alone.
    METADATA: ClassVar[dict[str, dict[str, None]]] = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
    }

    def rendered(self, form: str) -> bytes:
        """The figure as pdf, svg or png."""
        if form not in self.cache:
            buffer = io.BytesIO()
            with mpl.rc_context({"svg.hashsalt": "dapbench", "pdf.fonttype": 42}):
                self.figure.savefig(buffer, format=form, metadata=self.METADATA[form], dpi=150)
            self.cache[form] = buffer.getvalue()
        return self.cache[form]

    def files(self) -> dict[str, str]:
        """The figure's pdf, svg and png."""
        return {form: f"figures/{self.name}.{form}" for form in self.METADATA}

    def contents(self) -> list[bytes]:
        """The figure in each form."""
        return [self.rendered(form) for form in self.METADATA]

    @property
    def smallest(self) -> str:
        """The smaller of the svg and the png, as an address that needs no file."""
        form, kind = min([("svg", "svg+xml"), ("png", "png")], key=lambda choice: len(self.rendered(choice[0])))
        return data_url(self.rendered(form), kind)

    @property
    def width(self) -> int:
        """The figure's true width in pixels of the page, whatever the format's resolution."""
        return round(96 * self.figure.get_figwidth())


@dataclass(frozen=True, repr=False)
class Films(Item):
    """Short films.

    Attributes:
        gifs: the file's stem and caption of each, and its bytes.
    """

    gifs: dict[tuple[str, str], bytes]
    kind = "films"

    def files(self) -> dict[str, str]:
        """A gif under each caption."""
        return {caption: f"figures/{self.name}_{stem}.gif" for stem, caption in self.gifs}

    def contents(self) -> list[bytes]:
        """The gifs."""
        return list(self.gifs.values())

    @property
    def captioned(self) -> list[tuple[str, str, bytes]]:
        """Caption, place and content of each gif."""
        return [(*named, gif) for named, gif in zip(self.files().items(), self.contents(), strict=True)]


Make = Callable[[Results], tuple]


def item(kind: type[Item], name: str, title: str) -> Callable[[Make], Callable[[Results], Item]]:
    """Decorates a function that returns what ``kind`` takes after its title, so that it returns the item.

    Where the function raises `Absent`, the item is a `Skipped` one whose sentence says why.
    """

    def decorate(make: Make) -> Callable[[Results], Item]:
        @functools.wraps(make)
        def made(results: Results) -> Item:
            try:
                return kind(name, title, *make(results))
            except Absent as reason:
                return Skipped(name, title, str(reason))

        return made

    return decorate


table = functools.partial(item, Table)  # the function returns sentence, shown, values and optionally a note
figure = functools.partial(item, Figure)  # sentence and figure
films = functools.partial(item, Films)  # sentence and gifs


def padded(rows: list[list[str]]) -> list[list[str]]:
    """Rows of text whose cells are as wide as their column's widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]


LATEX = {"\\": r"\textbackslash{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "†": r"\textdagger{}", "≥": r"$\geq$"}
LATEX |= {character: rf"\{character}" for character in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\^{}"}
LATEX |= {"·": r"\textperiodcentered{}", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}"}
LATEX |= {"γ": r"$\gamma$", "λ": r"$\lambda$", "β": r"$\beta$", "τ": r"$\tau$", "ε": r"$\epsilon$", "σ": r"$\sigma$"}


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in text)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)
