"""A result as one HTML page that loads nothing."""

from __future__ import annotations

import base64
import html as escaping
from collections.abc import Mapping
from typing import Any

from benchmarks import charts, tables

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1c2430}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums;font-size:.9rem;display:block;
overflow-x:auto}th,td{padding:.25rem .6rem;border-bottom:1px solid #d5dae1;text-align:left;white-space:nowrap}
th{background:#f1f4f8}tr.best td{font-weight:600}img{max-width:100%}p.small{color:#566}"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html(result: Mapping[str, Any]) -> str:
    """The page of a throughput result."""
    curves = base64.b64encode(charts.growth(result["rows"])).decode()
    parts = [
        "<h1>JAX beside PyTorch: images per second</h1>",
        f"<p>{escaping.escape(tables.machine(result['environment']))}</p>",
        f"<p>{escaping.escape(tables.disturbance(result['rows']).replace('**', ''))}</p>",
        "<p>A ratio above 1: JAX is faster. Medians; ratios by pairs; the best row of each framework is bold. "
        "MFU: floating-point operations of the network over the measured rate of a matrix product. Floor: the time "
        "that parameters, gradients and velocities take at the measured rate of a copy, over the step's time.</p>",
        _table(tables.ratio_table(result["ratios"])),
        "<h2>Every row</h2>",
        _table(tables.rows_table(result["rows"])),
        "<h2>Parts of the step, start and memory</h2>",
        _table(tables.parts_table(result["rows"])),
        "<h2>The chip</h2>",
        _table(tables.roofline_table(result["roofline"])),
        "<h2>Growth with the batch size</h2>",
        f'<img alt="images per second and peak memory against the batch size" src="data:image/png;base64,{curves}"/>',
        "<h2>How it was run</h2>",
        _table([["what", "value"], *([k, str(v)] for k, v in _flat(result["environment"]))]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>JAX beside PyTorch</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _flat(environment: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in environment.items():
        found += [(f"{name}: {k}", v) for k, v in value.items()] if isinstance(value, dict) else [(name, value)]
    return found


def _table(table: tables.Table) -> str:
    head, *lines = table
    rows = []
    for line in lines:
        best = ' class="best"' if any(cell.startswith("**") for cell in line) else ""
        cells = "".join(f"<td>{escaping.escape(cell.strip('*'))}</td>" for cell in line)
        rows.append(f"<tr{best}>{cells}</tr>")
    names = "".join(f"<th>{escaping.escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
