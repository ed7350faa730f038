"""What was counted, as files and as a verdict.

DIR/drift.json        all numbers, and what makes them a reference for later ones
DIR/drift.png         the chart
DIR/least_sure.png    the photos of the least sure answers, where there are any
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from PIL import Image

from catdog.colours import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW
from catdog.contact_sheet import MOST, Cell, contact_sheet
from catdog.contract import UNSURE
from catdog.drift.tables import REPORT_NAME
from catdog.drift.tally import Answer, Tally
from catdog.errors import SettingsError
from catdog.figures import new_figure
from catdog.files import check_output_folder, write_text
from catdog.text import printable

CHART_NAME: Final = "drift.png"
SHEET_NAME: Final = "least_sure.png"
_COLOURS: Final = (BLUE, ORANGE, GREEN, SKY, AMBER, YELLOW)  # of the classes; "unsure" is purple
_MOST_TICKS: Final = 8
_LONGEST_TICK: Final = 16  # characters
_LEVELS_OF_PSI: Final = (0.1, 0.25)  # Siddiqi's: some change, a large one

# The options that catdog drift and catdog aws capture share.
ReferencePlace = Annotated[
    str | None,
    typer.Option(
        "--reference", metavar="PLACE", help="Compare with this: an evaluation's folder, a table, an earlier --out."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Write the numbers, a chart and a contact sheet there.")
]
MaxPsi = Annotated[float | None, typer.Option("--max-psi", metavar="X", min=0, help="Alarm above; needs --reference.")]
MaxUnsure = Annotated[
    str | None, typer.Option("--max-unsure", metavar="P%", help="Alarm when more of the answers are unsure.")
]
MaxErrors = Annotated[
    str | None, typer.Option("--max-errors", metavar="P%", help="Alarm when more of the photos have no answer.")
]


@dataclass(frozen=True)
class Bounds:
    """What is still all right; None: anything is."""

    psi: float | None = None
    unsure: float | None = None
    """Share of the answered photos, [0, 1]."""
    errors: float | None = None
    """Share of all photos, [0, 1]."""

    @classmethod
    def parse(cls, psi: float | None, unsure: str | None, errors: str | None, has_reference: bool) -> Bounds:
        """Read the options; raises SettingsError."""
        if psi is not None and not has_reference:
            raise SettingsError(f"--max-psi {psi}: compares with a --reference; give that, too")
        return cls(psi, _parse_share("--max-unsure", unsure), _parse_share("--max-errors", errors))

    def list_passed(self, report: Mapping[str, Any]) -> list[str]:
        """Return a line for each bound that the numbers pass, such as ``--max-errors 1%: 3.2% have no answer``.

        A PSI that chance alone explains passes none, however high it is: a handful of photos never looks like a tenth.
        """
        passed = []
        psi, chance = report["psi"], report["psi_by_chance"]
        if self.psi is not None and psi is not None and psi > max(self.psi, chance):
            passed.append(f"--max-psi {self.psi:g}: the confidences' PSI is {psi:.3f}")
        if self.unsure is not None and (report["unsure"] or 0) > self.unsure:
            passed.append(f"--max-unsure {self.unsure:.4g}: {report['unsure']:.2%} of the answers are unsure")
        if self.errors is not None and (report["failed"] or 0) > self.errors:
            passed.append(f"--max-errors {self.errors:.4g}: {report['failed']:.2%} of the photos have no answer")
        return passed


class LeastSure:
    """The least sure answers whose photo is at hand, as many as a contact sheet shows."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, str, str, Callable[[], Image.Image]]] = []
        self._numbers = count()

    def wants(self, answer: Answer) -> bool:
        """Return whether the answer is among the least sure so far."""
        if answer.confidence is None:
            return False
        return len(self._kept) < MOST or answer.confidence < -self._kept[0][0]

    def add(self, answer: Answer, name: str, read_thumbnail: Callable[[], Image.Image]) -> None:
        """Keep an answer that ``wants`` took; ``name`` is shown below it. ``read_thumbnail`` may be called or not."""
        assert answer.confidence is not None
        assert answer.label is not None
        item = (-answer.confidence, -next(self._numbers), answer.label, name, read_thumbnail)
        (heapq.heappush if len(self._kept) < MOST else heapq.heapreplace)(self._kept, item)

    def draw(self, title: str, path: Path) -> bool:
        """Write the contact sheet, the least sure first; return False, and write nothing, if there is no photo."""
        cells = [
            Cell(read(), f"{label} {-confidence:.1%}", name, ORANGE if label == UNSURE else BLUE)
            for confidence, _, label, name, read in sorted(self._kept, key=lambda item: item[:2], reverse=True)
        ]
        if cells:
            contact_sheet(cells, title, path)
        return bool(cells)


def check_out(out: Path | None) -> None:
    """Raise SettingsError unless a report may be written to this folder."""
    if out is not None:
        check_output_folder("--out", out, [REPORT_NAME])


def write_report(
    tally: Tally, about: Mapping[str, Any], bounds: Bounds, least_sure: LeastSure, out: Path | None
) -> Any:
    """Return the report, ready for JSON, and write it with its pictures to ``out``, where that is given.

    ``about`` says what was read and comes first. Raises SettingsError if the folder can't be written to, and for a
    bound on what the model doesn't answer.
    """
    if bounds.unsure is not None and tally.of_detector:
        raise SettingsError("--max-unsure: a detector is never unsure; use --max-psi, which rises with what it misses")
    report = {**about, **tally.to_json()}
    report["passed"] = bounds.list_passed(report)
    if out is not None:
        try:
            write_text(out / REPORT_NAME, json.dumps(report, indent=2) + "\n")
            draw_chart(report, bounds, str(about["of"]), out / CHART_NAME)
            if not least_sure.draw(f"The least sure answers of {about['of']}", out / SHEET_NAME):
                (out / SHEET_NAME).unlink(missing_ok=True)  # an earlier report's
        except OSError as error:
            raise SettingsError(f"--out {out}: can't be written ({error.strerror or error})") from error
    return report | {"out": None if out is None else str(out)}


def describe_report(report: Mapping[str, Any]) -> list[str]:
    """Return lines for a person: one a period, one for what could not be read, one a bound that was passed."""
    lines = []
    for period in (
        (*report["periods"], {"period": "all", **report}) if len(report["periods"]) != 1 else report["periods"]
    ):
        parts = [f"{period['photos']:,} photos"]
        if period.get("with_head") is not None:
            heads = ", ".join(f"{label} {number:.2f}" for label, number in period["heads_per_photo"].items())
            parts += [f"{period['with_head']:.1%} with a head", *([f"heads a photo: {heads}"] if heads else [])]
        elif period.get("shares"):
            parts.append(", ".join(f"{label} {share:.1%}" for label, share in period["shares"].items()))
        if period["errors"]:
            parts.append(f"{period['errors']:,} without an answer")
        if period["psi"] is not None:
            by_chance = ", within chance" if period["psi"] <= period["psi_by_chance"] else ""
            parts.append(f"PSI {period['psi']:.3f}{by_chance}")
        lines.append(f"{period['period']}: " + "; ".join(parts))
    if report["skipped"]:
        lines.append("passed over: " + ", ".join(f"{n:,} {reason}" for reason, n in report["skipped"].items()))
    return [printable(line) for line in (*lines, *report["passed"])]


def draw_chart(report: Mapping[str, Any], bounds: Bounds, title: str, path: Path) -> None:
    """Draw photos and shares by period and, with a reference, how the confidences differ from it."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    periods, reference = report["periods"], report["reference"]
    places = range(len(periods))
    key = "heads_per_photo" if "heads_per_photo" in report else "shares"
    labels = sorted({*report[key], *(reference[key] if reference else ())} - {UNSURE})
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)} | {UNSURE: PURPLE}
    rows = 2 if reference else 1
    with new_figure(path, 11, 3.6 * rows + 0.3) as figure:
        figure.suptitle(_as_label(title)[:100])
        grid = figure.subplots(rows, 2, squeeze=False)
        volume, shares = grid[0]
        answered = [period["photos"] - period["errors"] for period in periods]
        volume.bar(places, answered, color=GREY, label="answered")
        if report["errors"]:
            errors = [period["errors"] for period in periods]
            volume.bar(places, errors, bottom=answered, color=ORANGE, label="without an answer")
            volume.legend()
        volume.set(title="Photos")
        volume.yaxis.set_major_locator(MaxNLocator(integer=True))
        columns = [*([{"period": "reference", **reference}] if reference else []), *periods]
        bottom = [0.0] * len(columns)
        for label in labels if key == "heads_per_photo" else [*labels, UNSURE]:
            heights = [column[key].get(label, 0.0) for column in columns]
            shares.bar(range(len(columns)), heights, bottom=bottom, color=colours[label], label=_as_label(label))
            bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
        _name_periods(shares, [column["period"] for column in columns])
        if key == "heads_per_photo":
            found = [column["with_head"] for column in columns]
            shares.plot(range(len(columns)), found, "o", color="black", label="photos with a head")
            shares.set(title="Heads a photo", ylim=(0, max(1, *bottom) * 1.05))
        else:
            shares.set(title="Answers", ylim=(0, 1))
            shares.yaxis.set_major_formatter(PercentFormatter(1))
        handles, names = shares.get_legend_handles_labels()
        shares.legend(handles[::-1], names[::-1], loc="center left", bbox_to_anchor=(1, 0.5))  # as they are stacked
        _name_periods(volume, [period["period"] for period in periods])
        if reference:
            _draw_psi(grid[1][0], periods, bounds)
            _name_periods(grid[1][0], [period["period"] for period in periods])
            _draw_confidences(grid[1][1], reference["confidence"])


def _draw_psi(axes: Any, periods: Sequence[Mapping[str, Any]], bounds: Bounds) -> None:
    measured = [(i, p["psi"], p["psi_by_chance"]) for i, p in enumerate(periods) if p["psi"] is not None]
    places = [place for place, _, _ in measured]
    axes.bar(places, [chance for _, _, chance in measured], color=GREY, alpha=0.3, label="chance, 95% of samples")
    axes.plot(places, [psi for _, psi, _ in measured], "o-", ms=5, color=BLUE, label="PSI")
    marks: dict[float, tuple[str, str | None]] = dict.fromkeys(_LEVELS_OF_PSI, (GREY, None))
    if bounds.psi is not None:
        marks[bounds.psi] = (ORANGE, f"--max-psi {bounds.psi:g}")
    for level, (colour, label) in marks.items():
        axes.axhline(level, color=colour, ls=":", label=label)
    highest = max([psi for _, psi, _ in measured] + list(marks), default=0.3)
    axes.set(title="Confidences against the reference (PSI)", ylim=(0, 1.15 * highest), xlim=(-0.6, len(periods) - 0.4))
    axes.legend()


def _draw_confidences(axes: Any, confidence: Mapping[str, Any]) -> None:
    """Draw the share of photos in each of the reference's bins, side by side."""
    from matplotlib.ticker import PercentFormatter

    for k, (name, key, colour) in enumerate((("reference", "photos", GREY), ("now", "now", BLUE))):
        photos = confidence[key]
        places = [i - 0.2 + 0.4 * k for i in range(len(photos))]
        shares = [n / (sum(photos) or 1) for n in photos]
        axes.bar(places, shares, 0.4, color=colour, label=f"{name}, {sum(photos):,} photos")
    ends = [f"to {edge:.6g}" if edge else "no head" for edge in confidence["edges"]] + ["above"]
    axes.set_xticks(range(len(ends)), ends, rotation=35, ha="right", fontsize=8)
    axes.set(title="Confidence of the answers")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()


def _name_periods(axes: Any, names: Sequence[str]) -> None:
    step = -(-len(names) // _MOST_TICKS) or 1
    shown = [_as_label(name if len(name) <= _LONGEST_TICK else "…" + name[1 - _LONGEST_TICK :]) for name in names]
    axes.set_xticks(range(0, len(names), step), shown[::step], rotation=20, ha="right", fontsize=8)
    axes.grid(visible=False, axis="x")


def _as_label(text: str) -> str:
    """Return the text as matplotlib shows it; between two dollar signs it would read a formula."""
    return printable(text).replace("$", r"\$")


def _parse_share(flag: str, text: str | None) -> float | None:
    """Read ``5%`` or ``0.05``; raises SettingsError."""
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:  # also refuses NaN
        raise SettingsError(f"{flag} {text}: give a share, like 5% or 0.05")
    return share
