"""A model's folder and a data set for jobs that are checked without being run. Nothing here needs torch."""

from __future__ import annotations

import csv
import json
from pathlib import Path

COMPLETION = '{"team": {{ team | tojson }}}'
SCHEMA = {"type": "object", "required": ["team"], "additionalProperties": False,
          "properties": {"team": {"enum": ["billing", "network"]}}}


def write_model_folder(folder: Path) -> Path:
    """A folder that has what every model's has: a configuration, and one weight in safetensors."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


def write_tickets(path: Path, count: int = 40, wrong: tuple[int, ...] = ()) -> Path:
    """A CSV file of tickets and their teams; the rows whose numbers are in `wrong` name a team that isn't one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "team"])
        for number in range(1, count + 1):
            team = "nobody" if number in wrong else ("billing", "network")[number % 2]
            rows.writerow([f"Ticket {number}: please help", team])
    return path


def ticket_job(**sections: object) -> dict[str, object]:
    """Merge patches that make the smallest job one on the tickets."""
    job: dict[str, object] = {
        "model": {"source": "file://./model"},
        "dataset": {"source": "file://./tickets.csv", "evaluationFraction": 0.2, "prompt": "{{ text }}",
                    "completion": COMPLETION, "answerFormat": {"type": "json", "jsonSchema": json.dumps(SCHEMA)}},
        "output": {"uri": "file://./out"},
    }
    for name, patch in sections.items():
        below = job.get(name)
        job[name] = {**below, **patch} if isinstance(below, dict) and isinstance(patch, dict) else patch
    return job
