"""What `finstill check` prints."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finstill.preflight.check import CheckReport, TeacherReport

TEXT_CHARACTERS = 70


def print_report(report: CheckReport, console: Console) -> None:
    """Print a report for a person: the corpus, each teacher, what labelling costs, and the problems last."""
    _print_corpus(report, console)
    for found in (report.teacher, *report.ensemble):
        if found is not None:
            console.print(_teacher_table(found))
    console.print(_labelling(report))
    for problem in report.problems:
        colour, word = ("red", "Stops a run") if problem.severity == "stops" else ("yellow", "Warning")
        console.print(f"[bold {colour}]{word}.[/] {escape(problem.message)}", soft_wrap=True)
    if report.stops:
        console.print("A run would stop. Correct what is listed above and check again.")
    else:
        console.print(f"Nothing would stop a run. Start it: make demo PROFILE={escape(report.profile)}", soft_wrap=True)


def _print_corpus(report: CheckReport, console: Console) -> None:
    for source in report.understood:
        told = ", ".join(f"{name} {value}" for name, value in source.items() if name != "file" and value)
        console.print(escape(f"{source['file']}: {told}"), soft_wrap=True)
    if not report.splits:
        return
    table = Table("texts", title=f"{report.rows:,} rows read, {report.texts:,} texts", title_justify="left")
    labels = [*report.labels, *([""] if report.unlabelled else [])]
    for label in labels:
        table.add_column(label or "without a label", justify="right")
    for split, counts in report.splits.items():
        table.add_row(split, *(f"{counts.get(label, 0):,}" for label in labels))
    console.print(table)
    for reason, rows in report.dropped.items():
        examples = report.examples.get(reason, [])
        place = f", as {examples[0][0]}: “{examples[0][1][:TEXT_CHARACTERS]}”" if examples else ""
        console.print(escape(f"{reason}: {rows:,}{place}"), soft_wrap=True)


def _teacher_table(found: TeacherReport) -> Table:
    table = Table("", "", title=f"teacher {found.checkpoint}", title_justify="left", show_header=False)
    rows = {
        "architecture": found.architecture + (", fine-tuned on this corpus first" if found.fine_tuned else ""),
        "classes": ", ".join(found.classes),
        "counted as": "; ".join(f"{label}: {', '.join(names)}" for label, names in found.labels.items()),
        "tokens of a text": ", ".join(f"{float(p):.0%} at most {count:,}" for p, count in found.lengths.items()),
        "tokens unknown": "" if found.unknown_share is None else f"{found.unknown_share:.2%}",
        "texts cut": "" if found.cut_share is None else f"{found.cut_share:.2%}",
        "texts read in windows": f"{found.texts_in_windows:,} in {found.windows:,}" if found.windows else "",
        "on labelled texts": ""
        if found.accuracy is None
        else f"accuracy {found.accuracy:.3f}, macro-F1 {found.macro_f1:.3f} on {found.labelled_texts:,}; the majority "
        f"class: {found.majority_accuracy:.3f}, {found.majority_macro_f1:.3f}",
        "texts a second": "" if found.texts_per_second is None else f"{found.texts_per_second:,.0f}",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    return table


def _labelling(report: CheckReport) -> str:
    minutes = report.labelling_seconds / 60
    time = (
        f"{report.labelling_seconds:,.0f} s"
        if minutes < 2
        else f"{minutes:,.0f} min"
        if minutes < 120
        else (f"{minutes / 60:,.1f} h")
    )
    more = f"; augmentation adds {report.augmented_at_most:,} at most" if report.augmented_at_most else ""
    return f"Texts that the cache lacks: {report.unseen_texts:,}, about {time} on this machine{more}."
