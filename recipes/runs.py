"""Train and evaluate every run of a recipe, and write its table.

    python recipes/runs.py recipes/deeppcb DATA RUNS [--only gap gmp] [--jobs 2]

The recipe's ``recipe.toml`` names the runs: options of ``camlucida train`` and ``camlucida evaluate``, and seeds; a run
``of`` another one evaluates that one's network in another way. DATA
holds the data's folders; RUNS receives a folder a run, ``NAME-SEED``. What is finished is not done again, and what was
killed goes on. Each process has one thread, so that results do not depend on the machine's cores. Results go into the
recipe's ``results.json``, one entry a run with its commands and times, and into ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Options = dict[str, Any]


def arguments(options: Options) -> list[str]:
    """``{"label-smoothing": 0.1, "regularizer": ["has"]}`` as the command line has it."""
    words = []
    for name, value in options.items():
        for choice in value if isinstance(value, list) else [value]:
            words += [f"--{name}"] if choice is True else [f"--{name}", str(choice)]
    return words


def finish(command: list[str], log: Path) -> None:
    """Run one command, its output into a file."""
    with log.open("a") as output:
        output.write(" ".join(command) + "\n")
        output.flush()
        done = subprocess.run(
            [sys.executable, "-m", "camlucida", *command], stdout=output, stderr=subprocess.STDOUT, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: failed, see {log}")


def one_run(recipe: Options, run: Options, seed: int, data: Path, runs: Path) -> Options:
    """Train with one seed, then evaluate; the entry for ``results.json``."""
    name, source = f"{run['name']}-{seed}", run.get("data", recipe["data"]).format(data=data)
    folder = runs / f"{run.get('of', run['name'])}-{seed}"
    report = folder / f"evaluation-{run['name']}"
    log, entry_file = runs / f"{name}.log", runs / f"{name}.json"
    if entry_file.exists():
        return json.loads(entry_file.read_text())
    train = recipe.get("train", {}) | run.get("train", {}) | {"seed": seed}
    judge = recipe.get("evaluate", {}) | run.get("evaluate", {})
    training = ["train", source, "-o", str(folder), *arguments(train)]
    judging = ["evaluate", str(folder), source, "-o", str(report), *arguments(judge)]
    if "of" not in run:
        finish(training, log)
    if "localizer" in run:
        second = folder / run["name"]
        finish(["localizer", str(folder), source, "-o", str(second), *arguments(run["localizer"])], log)
        judging += ["--localizer", str(second)]
    finish(judging, log)
    evaluation = json.loads((report / "evaluation.json").read_text())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    entry = {
        "run": run["name"], "of": run.get("of"), "seed": seed, "seconds": round(sum(row["seconds"] for row in rows), 1),
        "epochs": len(rows),
        "train": " ".join(["camlucida", *training]).replace(str(data), "DATA").replace(str(runs), "RUNS"),
        "evaluate": " ".join(["camlucida", *judging]).replace(str(data), "DATA").replace(str(runs), "RUNS"),
        "parameters": parameters(folder / "model.safetensors"), "training accuracy": rows[-1]["accuracy"],
        "calibration": evaluation["calibration"]["in words"], "warnings": evaluation["warnings"],
        "figures": {figure["key"]: figure["value"] for figure in evaluation["figures"]},
        "baselines": {
            f"{figure['key']}, {baseline['name']}": baseline["value"]["value"]
            for figure in evaluation["figures"] for baseline in figure["baselines"]
        },
    }  # fmt: skip
    entry_file.write_text(json.dumps(entry, indent=1))
    return entry


def parameters(weights: Path) -> int:
    """How many numbers are trained (running statistics left out)."""
    from safetensors import safe_open

    with safe_open(weights, "numpy") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys() if "running_" not in key]  # noqa: SIM118
    total = 0
    for shape in shapes:
        count = 1
        for side in shape:
            count *= side
        total += count if shape else 0
    return total


def table(recipe: Options, entries: list[Options]) -> str:
    """A row a run: the mean over seeds, the standard deviation behind it, and in brackets the 95 % interval of the test
    pictures (its ends' means over seeds); the baselines once.
    """
    columns: dict[str, str] = recipe["columns"]
    lines = [f"| run | seeds | {' | '.join(columns.values())} | seconds |", "| --- " * (len(columns) + 3) + "|"]
    for name in dict.fromkeys(entry["run"] for entry in entries):
        own = [entry for entry in entries if entry["run"] == name]
        cells = [cell([number(entry, key) for entry in own], key) + interval(own, key) for key in columns]
        lines.append(f"| {name} | {len(own)} | {' | '.join(cells)} | {mean(entry['seconds'] for entry in own):.0f} |")
    for name in dict.fromkeys(key.rpartition(", ")[2] for key in entries[0]["baselines"]):
        values = [entries[0]["baselines"].get(f"{key}, {name}") for key in columns]
        if any(value is not None for value in values):
            cells = ["" if value is None else f"{100 * value:.1f}" for value in values]
            lines.append(f"| *{name}* | | {' | '.join(cells)} | |")
    return "\n".join(lines) + "\n"


def number(entry: Options, key: str) -> float | None:
    """A figure's value, or one of the entry's own."""
    if key == "gap":
        return entry["training accuracy"] - entry["figures"]["top1"]["value"]
    if key in entry:
        return entry[key]
    figure = entry["figures"].get(key)
    return None if figure is None else figure["value"]


def cell(values: list[float | None], key: str) -> str:
    """Percent, but for counts."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if key == "parameters":
        return f"{known[0]:,}"
    spread = f" ± {100 * stdev(known):.1f}" if len(known) > 1 else ""
    return f"{100 * mean(known):.1f}{spread}"


def interval(entries: list[Options], key: str) -> str:
    """The bootstrap interval of a figure, averaged over seeds; nothing where it has none."""
    figures = [entry["figures"][key] for entry in entries if key in entry["figures"]]
    ends = [[figure[end] for figure in figures if figure.get(end) is not None] for end in ("low", "high")]
    return f" ({100 * mean(ends[0]):.1f} to {100 * mean(ends[1]):.1f})" if all(ends) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--seeds", nargs="*", type=int, help="instead of the recipe's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    options = parser.parse_args()
    recipe = tomllib.loads((options.recipe / "recipe.toml").read_text())
    options.runs.mkdir(parents=True, exist_ok=True)
    wanted = [run for run in recipe["run"] if not options.only or run["name"] in options.only]
    work = [
        (run, seed) for seed in options.seeds or recipe["seeds"] for run in wanted if seed in run.get("seeds", [seed])
    ]
    with ThreadPoolExecutor(options.jobs) as jobs:
        list(jobs.map(lambda run_and_seed: one_run(recipe, *run_and_seed, options.data, options.runs), work))
    order = {run["name"]: place for place, run in enumerate(recipe["run"])}
    stored = [json.loads(path.read_text()) for path in options.runs.glob("*-*.json")]
    entries = [entry for entry in stored if entry["run"] in order]
    entries.sort(key=lambda entry: (order[entry["run"]], entry["seed"]))
    (options.recipe / "results.json").write_text(json.dumps(entries, indent=1) + "\n")
    text = table(recipe, entries)
    (options.recipe / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
