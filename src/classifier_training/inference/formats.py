"""The output formats: each writes rows, as they come, to one file."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from classifier_training.core.errors import require_extra
from classifier_training.core.table import write_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from classifier_training.inference.rows import Row

ROW_GROUP = 4096
"""Rows of a Parquet file that are compressed together, and held in memory."""


def write_json(rows: Iterator[Row], path: Path, probabilities: Sequence[str] | None) -> None:  # noqa: ARG001
    """Write one JSON array, a row a line."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n  "
        for row in rows:
            file.write(before + to_json(row))
            before = ",\n  "
        file.write("\n]\n")


def write_jsonl(rows: Iterator[Row], path: Path, probabilities: Sequence[str] | None) -> None:  # noqa: ARG001
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(row) + "\n" for row in rows)


def write_csv(rows: Iterator[Row], path: Path, probabilities: Sequence[str] | None, *, is_safe: bool = False) -> None:
    """Write a table: top_k as JSON text, and the probabilities as a column prob_<class> each.

    With `is_safe`, no cell is a formula to a spreadsheet.
    """
    names = probabilities or ()
    header = ["path", "label", "confidence", "top_k", "rejected", "reject_reason", "error"]
    with path.open("w", encoding="utf-8", newline="") as file:
        cells = (_cells(row, names) for row in rows)
        write_rows(file, [*header, *(f"prob_{name}" for name in names)], cells, is_safe=is_safe)


def _cells(row: Row, names: Sequence[str]) -> list[object]:
    shares = row.get("probabilities") or {}
    return [
        row["path"],
        row["label"],
        row["confidence"],
        to_json(row["top_k"]),
        None if row["rejected"] is None else str(row["rejected"]).lower(),
        row["reject_reason"],
        row["error"],
        *(shares.get(name) for name in names),
    ]


def write_parquet(rows: Iterator[Row], path: Path, probabilities: Sequence[str] | None) -> None:
    """Write a Parquet file in row groups; top_k is a list of structs, probabilities a struct of the classes.

    Raises:
        UserError: when pyarrow is not installed.
    """
    pa, parquet = import_pyarrow()
    share = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    fields = [
        ("path", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("top_k", pa.list_(share)),
        ("rejected", pa.bool_()),
        ("reject_reason", pa.string()),
        ("error", pa.string()),
    ]
    if probabilities is not None:
        fields.append(("probabilities", pa.struct([(name, pa.float64()) for name in probabilities])))
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


FORMATS: dict[str, Callable[[Iterator[Row], Path, Sequence[str] | None], None]] = {
    ".json": write_json,
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
"""Writers by the ending of the file. Their last argument: the class names when rows have probabilities, else None."""


def to_json(value: object) -> str:
    """Write a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module.

    Raises:
        UserError: when it is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise require_extra("pyarrow", extra="parquet", purpose="a .parquet output") from error
    return pa, parquet
