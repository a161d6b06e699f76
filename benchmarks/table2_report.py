"""Turn the states of `bench_table2.py` into JSON, a Markdown table and figures.

What the JSON and the samples beside it hold already is kept unless the folder has a longer run.
"""

import json
import math
import os

import numpy as np
from table2_figures import LIMITS, draw, last_of, trajectory
from table2_training import SAMPLES, estimator, judge, mixture, updates

from aeot._io import write_text

METRICS = {"modes": 1.0, "high_quality": 100.0, "reverse_kl": 1.0, "variance_ratio": 1.0}
NAMES = {"modes": "modes", "high_quality": "quality", "reverse_kl": "reverse KL"}
DIGITS = {"modes": 1, "high_quality": 1, "reverse_kl": 3}
EPOCHS, TRIALS = 400, 10  # of the published protocol
COMMON = {"grid": 100, "ring": 25}  # epochs at which all rows are compared


# What there is: the folder's states, and what was written before
def collect(folder):
    """Read a folder: key -> record, key -> failure, (*key, epoch) -> samples; key: set, row, seed.

    AE-OT's samples stand under epoch 0.
    """
    records, failures, samples = {}, {}, {}
    for path in sorted(folder.glob("*.npz")):
        if ".writing" in path.name:
            continue
        with np.load(path) as stored:
            record = json.loads(str(stored["record"]))
            key = record["set"], record["row"], record["seed"]
            records[key] = record
            for name in stored:
                if name.startswith("samples"):
                    samples[(*key, int(name.removeprefix("samples") or 0))] = stored[name]
    for path in sorted(folder.glob("*.failed.json")):
        failure = json.loads(path.read_text())
        failures[failure["set"], failure["row"], failure["seed"]] = failure["error"]
    return records, failures, samples


def committed(output):
    """Read what an earlier report wrote, in the form of `collect`, and the body itself."""
    body = json.loads(output.read_text()) if output.exists() else {}
    records, failures, samples = {}, {}, {}
    for record in body.get("records", []):
        columns = record.get("history")
        if columns:
            rows = zip(*columns.values(), strict=True)
            record["history"] = [dict(zip(columns, row, strict=True)) for row in rows]
        records[record["set"], record["row"], record["seed"]] = record
    for failure in body.get("failures", []):
        failures[failure["set"], failure["row"], failure["seed"]] = failure["error"]
    path = output.with_name(output.stem + "_samples.npz")
    if path.exists():
        with np.load(path) as stored:
            for name in stored:
                group, row, seed, epoch = name.split("|")
                samples[group, row, int(seed), int(epoch)] = stored[name].astype(np.float32)
    return records, failures, samples, body


def merge(old, new):
    """Join two dicts of records; the longer run wins, and the new one of two equally long."""
    merged = dict(old)
    for key, record in new.items():
        if key not in old or record.get("epochs", 0) >= old[key].get("epochs", 0):
            merged[key] = record
    return merged


def summary(values):
    """Mean and standard error of a few trials."""
    values = np.array([v for v in values if v is not None and math.isfinite(v)])
    if not len(values):
        return None, None
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error


def horizons(lengths, common):
    """The epochs to report: `common`, a full run, and lengths seeds stopped at, a quarter apart."""
    always = {length for length in (common, EPOCHS) if max(lengths) >= length}
    shown = []
    for length in sorted(always | set(lengths)):
        if length and (length in always or not shown or length >= 1.25 * shown[-1]):
            shown.append(length)
    return shown


def lines_of(trials):
    """Summarise a row's records, a line for each number of epochs that some seeds have reached."""
    if "history" not in trials[0]:  # AE-OT
        return [line_of(trials, trials, None)]
    lines = []
    for epochs in horizons([r["epochs"] for r in trials], COMMON[trials[0]["set"]]):
        there = [r for r in trials if r["epochs"] >= epochs]
        last = [r["history"][epochs - 1] for r in there]
        lines.append(line_of(there, last, epochs))
    return lines


def line_of(records, last, epochs):
    line = {"seeds": [r["seed"] for r in records], "epochs": epochs, "seconds": {}}
    line["aeot"] = ", ".join(sorted({r["aeot"] for r in records}))
    for record in records:  # of an epoch or of AE-OT, the fastest of each machine
        place, each = record.get("device", "one thread"), record["seconds"]
        each /= record.get("epochs", 1)
        line["seconds"][place] = min(each, line["seconds"].get(place, each))
    values = {
        metric: [None if r[metric] is None else scale * r[metric] for r in last]
        for metric, scale in METRICS.items()
    }
    # A GAN's data are what it was trained on, so that its two readings agree.
    values["reverse_kl_data"] = [r.get("reverse_kl_data", r["reverse_kl"]) for r in last]
    for metric, found in values.items():
        line[metric], line[metric + "_se"] = summary(found)
    line["values"] = values
    extras = ("gradient_norm", "reverse_kl_high_quality", "support_variance", "acceptance")
    for extra in (*extras, "solve_seconds", "mass_error", "nearest_support"):
        if any(extra in r for r in last):
            line[extra], _ = summary([r.get(extra) for r in last])
    if "converged" in records[0]:
        line["converged"] = all(r["converged"] for r in records)
    return line


def contradictions(line, known):
    """Metrics that lie more than three standard errors from the published ones: name -> how many.

    A lone seed has no standard error: it gets the published deviation of one trial.
    """
    far = {}
    for metric, (value, error) in zip(NAMES, known, strict=True):
        if line[metric] is None:
            continue
        own = line[metric + "_se"]
        if own is None:
            own = error * math.sqrt(TRIALS / len(line["seeds"]))
        apart, unit = abs(line[metric] - value), math.hypot(own, error)
        count = apart / unit if unit else math.inf if apart else 0.0
        if count > 3:
            far[metric] = count
    return far


def cell(value, error, digits):
    shown = "-" if value is None else f"{value:.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"


def remark(row, line, known, why):
    """One sentence on a line that contradicts what was published, or nothing."""
    far = contradictions(line, known)
    if not far:
        return None
    told = []
    for (metric, name), (value, error) in zip(NAMES.items(), known, strict=True):
        if metric in far:
            ours = cell(line[metric], line[metric + "_se"], DIGITS[metric])
            told.append(f"{name} {ours} against {value:g} ± {error:g} ({far[metric]:.1f} errors)")
    reason = why.get(row, "no cause known; networks, losses and settings are the published ones.")
    if line["epochs"] and line["epochs"] < EPOCHS:
        reason = f"trained for {line['epochs']} of {EPOCHS} epochs."
    size = f" ({len(line['seeds'])} × {line['epochs']})" if line["epochs"] else ""
    return f"- **{row}**{size}: {', '.join(told)}: {reason.format(**line)}"


def trained(line):
    """Where a row was trained and in how many seconds an epoch of a seed, or nothing for AE-OT."""
    if not line["epochs"]:
        return "-"
    return ", ".join(f"{seconds:.2f} ({place})" for place, seconds in line["seconds"].items())


def chance(name):
    """What 2500 points spread evenly over the square of the figure score."""
    data = mixture(name)
    high = LIMITS[name]
    points = np.random.default_rng(0).uniform(-high, high, (SAMPLES, 2)).astype(np.float32)
    found = judge(points, data, data.labels.bincount())
    return (
        f"Points spread evenly over a square of side {2 * high:g} find {found['modes']:.0f} modes "
        f"with a reverse KL of {found['reverse_kl']:.3f} at a quality of "
        f"{100 * found['high_quality']:.1f} %: where quality is low, modes and KL say little."
    )


def markdown(tables, published, why, failures, pace):
    pair = estimator("WGAN-GP")
    lines = [
        "Written by `benchmarks/bench_table2.py`. Mean ± standard error over seeds, 2500 samples",
        "per seed. The published protocol is 400 epochs and 10 seeds. A row stands once for the",
        f"epochs at which all are compared ({COMMON['grid']} on the grid, {COMMON['ring']} on the",
        "ring) and once for those it reached.",
        "**Rows with fewer than 400 epochs show how far training has come, not what the method",
        "reaches: they must not be read against the published column.**",
        "",
        "Reverse KL: of the nearest modes of all samples against the histogram of what the row was",
        "trained on (for GANs the 100 000 data, the same number in every mode; for AE-OT its 512",
        "random supports), and against the histogram of the data, from which the supports differ.",
        "The published 0.007 of AE-OT is compared with the first reading.",
        "Variance: inside a mode, over the true one; 1 for an exact sampler, whose quality is",
        "98.9 % and whose reverse KL is 0.005 (grid) and 0.001 (ring) where draws are independent;",
        "those of AE-OT are stratified, which takes the first reading below that.",
        "",
        "Seconds of a row on one thread are the fastest fifth of an epoch times five (for AE-OT",
        "the fastest of three runs), all measured in one call; a full run is 400 epochs. Beside",
        "them stand the seconds of an epoch and seed where the row was trained.",
        "Version 0.1.0 trained networks written by hand for this benchmark, on a GPU several seeds",
        "as one; later versions train the library's classes.",
    ]
    if pace:
        machine = f"{pace['processor']}, load average {pace['load_average']:.1f}"
        lines += [f"Machine: {machine}, version {pace['aeot']}."]
    lines += [
        "",
        "WGAN and WGAN-GP are hybrids: networks, batches of "
        f"{pair.batch_size} and {pair.critic_steps} critic steps of WGAN-GP's",
        "toy examples for both, the clipped one with its authors' RMSprop and clipping but not",
        "their batches of 64 nor their 100 critic steps in early and every 500th round. "
        f"{EPOCHS} epochs are",
        f"{EPOCHS * updates(pair)} of their generator steps, where the toy examples take 100 000.",
        f"MD: {estimator('MD').kernels} kernels (B) of size 5 (C); the published are not known.",
        "",
    ]
    for name, table in tables.items():
        lines += [
            f"## {name}",
            "",
            chance(name),
            "",
            "| row | aeot | seeds × epochs | modes | quality % | KL to its training set "
            "| KL to the data | variance | published: modes / quality / KL "
            "| s per epoch where trained | one thread: s per epoch | s per full run | / AE-OT |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        seconds = pace or {}
        ours = seconds.get(f"{name} AE-OT exact linear")
        remarks = []
        for row, found in table.items():
            known = published.get(name, {}).get(row)
            told = " / ".join(f"{v:g} ± {e:g}" for v, e in known) if known else "-"
            for line in found:
                each = seconds.get(row if line["epochs"] else f"{name} {row}")
                run = each and each * (EPOCHS if line["epochs"] else 1)
                timing = (
                    trained(line),
                    f"{each:.1f}" if each and line["epochs"] else "-",
                    f"{run:.{0 if run > 10 else 2}f}" if run else "-",
                    f"{run / ours:,.0f}" if run and ours else "-",
                )
                lines.append(
                    f"| {row} | {line['aeot']} | {len(line['seeds'])} × {line['epochs'] or '-'} "
                    f"| {cell(line['modes'], line['modes_se'], 1)} "
                    f"| {cell(line['high_quality'], line['high_quality_se'], 1)} "
                    f"| {cell(line['reverse_kl'], line['reverse_kl_se'], 3)} "
                    f"| {cell(line['reverse_kl_data'], line['reverse_kl_data_se'], 3)} "
                    f"| {cell(line['variance_ratio'], None, 2)} | {told} "
                    f"| {' | '.join(timing)} |"
                )
                if known and (said := remark(row, line, known, why)):
                    remarks.append(said)
        if remarks:
            lines += [
                "",
                "More than three standard errors from the published numbers:",
                "",
                *remarks,
            ]
        lines.append("")
    if failures:
        lines += ["## Stopped", "", "Numbers ceased to be finite; the last good state was kept."]
        lines += [
            "",
            *(f"- {key[0]}, seed {key[2]}: {error}" for key, error in failures.items()),
            "",
        ]
    return "\n".join(lines)


def rounded(value):
    """Five digits of every float, for the file."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def dump(body):
    """JSON with one line per record, so that a longer run changes one line."""
    parts = []
    for name, value in sorted(body.items()):
        if isinstance(value, list):
            items = ",\n  ".join(json.dumps(item, sort_keys=True) for item in value)
            text = f"[\n  {items}\n ]" if value else "[]"
        else:
            text = json.dumps(value, indent=1, sort_keys=True).replace("\n", "\n ")
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def columns(record):
    """A record with its history by columns."""
    history = record.get("history")
    if not history:
        return record
    return record | {"history": {name: [h.get(name) for h in history] for name in history[0]}}


def report(folder, output, facts, rows, why):
    """Write the JSON, the table, the samples kept and the figures beside each other."""
    records, failures, samples, body = committed(output)
    fresh_records, fresh_failures, fresh_samples = collect(folder)
    trained = {k: r for k, r in fresh_records.items() if r.get("epochs", 1)}
    records = merge(records, trained)
    failures = {k: e for k, e in failures.items() if k not in fresh_records} | fresh_failures
    newer = {key for key, record in trained.items() if records[key] is record}
    samples = {k: v for k, v in samples.items() if k[:3] not in newer}
    samples |= {k: v for k, v in fresh_samples.items() if k[:3] in newer}
    samples = chosen(records, samples, rows)
    order = [(g, r) for g in LIMITS for r in rows]
    keys = sorted((k for k in records if k[:2] in order), key=lambda k: (order.index(k[:2]), k[2]))
    tables = {}
    for group, row in order:
        trials = [rounded(records[k]) for k in keys if k[:2] == (group, row)]
        if trials:
            tables.setdefault(group, {})[row] = lines_of(trials)
    body = {name: body.get(name) for name in ("pace", "environment")} | facts
    body |= {
        "records": [columns(rounded(records[k])) for k in keys],
        "failures": [
            {"set": g, "row": r, "seed": n, "error": e} for (g, r, n), e in failures.items()
        ],
        "tables": rounded(tables),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, dump(body))
    text = markdown(tables, body["published"], why, failures, body["pace"])
    write_text(output.with_suffix(".md"), text)
    kept = {"|".join(map(str, k)): v.astype(np.float16) for k, v in samples.items()}
    fresh = output.with_name(f".{output.stem}_samples.writing-{os.getpid()}.npz")
    np.savez_compressed(fresh, **kept)
    os.replace(fresh, output.with_name(output.stem + "_samples.npz"))
    histories = {}
    for key in keys:
        if "history" in records[key]:
            histories.setdefault(key[:2], []).append(records[key]["history"])
    for group in LIMITS:
        shown = [row for row in rows if any(k[:2] == (group, row) for k in samples)]
        panels = [(row, *last_of(samples, group, row)) for row in shown]
        if panels:
            draw(group, panels, output.with_name(f"{output.stem}_{group}.png"))
    trajectory(samples, histories, output.with_name(f"{output.stem}_trajectory.png"))


def chosen(records, samples, rows):
    """What to keep of each row's longest run: the last samples; all of two GANs on the grid."""
    kept = {}
    for group in LIMITS:
        for row in rows:
            mine = [k for k in samples if k[:2] == (group, row) and k[:3] in records]
            if not mine:
                continue
            lead = max(mine, key=lambda k: (k[3], -k[2]))
            whole = group == "grid" and row in ("GAN", "PacGAN4")
            kept |= {k: samples[k] for k in mine if k == lead or (whole and k[2] == lead[2])}
    return kept
