"""The page of a run: its sections in order, and the data for its script."""

from __future__ import annotations

from pathlib import Path

from cotune.errors import counted
from cotune.files import write_text
from cotune.plain import one_line, splits_text
from cotune.report.html.markup import data_text, esc
from cotune.report.html.plot import Point
from cotune.report.html.sections.errors import errors_section
from cotune.report.html.sections.health import health_section, reproduce_section
from cotune.report.html.sections.layers import layers_section
from cotune.report.html.sections.lineage import lineage_section, map_section
from cotune.report.html.sections.matrix import matrix_section, tables_for_page
from cotune.report.html.sections.prompts import Score, prompt_details, read_prompts
from cotune.report.html.sections.record import RunRecord, read_record
from cotune.report.html.sections.robustness import robustness_section, with_formats
from cotune.report.html.sections.seconds import seconds_section
from cotune.report.html.sections.slices import slices_section
from cotune.report.html.sections.training import search_section, training_section
from cotune.report.html.sections.verdict import verdict_section
from cotune.report.html.sections.waterfall import waterfall_section
from cotune.report.html.sections.workers import workers_section
from cotune.report.html.shell import Live, framed
from cotune.report.terminal.result import result_title
from cotune.run_files import REPORT


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run's folder, atomically, and return its path; only the journal is required.

    Raises:
        InputError: if the folder is not a run's folder.
        CotuneError: if the file cannot be written.
    """
    path = run_folder / REPORT
    write_text(path, render_report(run_folder))
    return path


def render_report(run_folder: Path, live: Live | None = None) -> str:
    """The page as HTML: the content of ``report.html``, or with ``live`` the page that is served during the run.

    Raises:
        InputError: if the folder is not a run's folder.
    """
    record = read_record(run_folder)
    prompts = read_prompts(record)
    layers, seconds = layers_section(record, prompts), seconds_section(record, prompts)
    workers = workers_section(record)
    sections = [
        ("verdict", "Verdict", "", verdict_section(record, prompts)),
        *([("seconds", "Course", "What was known when", seconds)] if seconds else []),
        *([("layers", "Layers", "Where the answer forms", layers)] if layers else []),
        ("lineage", "Lineage", "Prompts and adapters through the cycles", lineage_section(record, prompts)),
        ("map", "Prompt map", "", map_section(record, prompts)),
        ("matrix", "Matrix", "", matrix_section(record)),
        ("errors", "Errors", "", errors_section(record)),
        ("slices", "Slices", "Where failures lie together", slices_section(record, prompts)),
        ("robustness", "Robustness", "The winning prompt in other formats", robustness_section(record)),
        ("training", "Training", "", training_section(record, prompts)),
        *([] if seconds else [("search", "Search", "", search_section(record, prompts))]),
        ("waterfall", "Waterfall", "", waterfall_section(record, prompts)),
        *([("workers", "Workers", "Who did the work", workers)] if workers else []),
        ("health", "Data health", "", health_section(record)),
        ("reproduce", "Reproduce", "", reproduce_section(record)),
    ]
    body = "".join(
        f'<section id="{name}" aria-label="{title}">'
        + ("" if name == "verdict" else f"<h2>{title}{f' <small>{more}</small>' if more else ''}</h2>")
        + f"{inside}</section>"
        for name, title, more, inside in sections
    )
    data = {
        "tables": tables_for_page(record, prompts),
        "prompts": prompt_details(with_formats(record, prompts), lambda score: _panel_interval(record, score)),
        "metric": record.metric,
        "dev": {"title": record.dev_measure.panel, "columns": record.dev_measure.columns},
    }
    remarks = "".join(f"<p class=remark>{esc(remark)}</p>" for remark in record.remarks)
    task = one_line(record.summary.get("task") or record.value("start").get("task") or record.config.get("name") or "run", 80)
    return framed(
        " · ".join(part for part in (task, result_title(record.summary), "cotune report") if part),
        f"{_about(record, task)}{remarks}{body}",
        links={name: title for name, title, _, _ in sections},
        source="the run’s journal",
        data=data,
        scripts=("panel.js", "matrix.js"),
        finished=record.finished,
        live=live,
    )


def _panel_interval(record: RunRecord, score: Score) -> Point | None:
    """95% interval of a prompt's score in the panel; the other formats' scores are by the metric on dev."""
    if score.score is None:
        return None
    if score.stage == "robustness":
        return record.dev_interval(score.score, score.rows)
    return record.dev_measure.interval(score.score, score.rows)


def _about(record: RunRecord, task: str) -> str:
    start = record.value("start")
    rows = esc(splits_text(record.summary.get("n") or start.get("n")))
    model = record.summary.get("model") or start.get("model") or record.config.get("model")
    budget = start.get("budget") or record.config.get("budget")
    facts = [
        f"<b>{data_text(task)}</b>",
        data_text(one_line(model, 80)) if model else "",
        counted(rows, "row") if rows else "",
        f"budget {esc(budget)}" if budget else "",
    ]
    return f'<p class="about">{" · ".join(fact for fact in facts if fact)}</p>'
