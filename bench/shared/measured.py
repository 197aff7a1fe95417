"""Tables of what was measured on one network or machine: time, memory, size, agreement. One function each."""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

from shared.described import table

RESULTS: Final = Path(__file__).resolve().parents[1] / "results"


def load(name: str) -> dict[str, Any]:
    """One result file."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return document


def where(document: dict[str, Any]) -> str:
    """Machine, settings and commit, for the line under a table."""
    machine, settings = document["machine"], document["settings"]
    place = machine["gpu"] or f"{machine['cpu']}, {settings['threads']} threads"
    details = [f"{k} {settings[k]}" for k in ("width", "batch") if k in settings]
    if "repeats" in settings:
        details.append(f"median of {settings['repeats']}")
    return "; ".join([place, *details, f"commit {document['commit']}"])


def speed() -> str:
    """Training steps relative to the float network, and how much faster than Brevitas alone."""
    return _steps(load("speed-cpu"))


def overhead() -> str:
    """The same where there is next to nothing to compute."""
    return _steps(load("overhead-cpu"))


def _steps(document: dict[str, Any]) -> str:
    columns = ("W4A4 step", "float", "unlearning", "training", "Brevitas, float32", "Brevitas / unlearning")
    lines = [f"| {' | '.join(columns)} |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in document["results"].items():
        cells = [f"{row['float']['median_ms']:.0f} ms"]
        cells += [f"{row[kind]['ratio']:.2f}x" for kind in ("ours", "learned", "brevitas")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {row['brevitas']['ratio'] / row['ours']['ratio']:.1f}x |"
        )
    clock = "" if document["settings"]["clock"] == "wall" else "; time of the processor"
    return "\n".join([*lines, "", where(document) + clock])


def breakdown() -> str:
    """Where the time of a training step goes."""
    document = load("breakdown-cpu")
    groups = list(dict.fromkeys(g for row in document["results"].values() for g in row))
    lines = [f"| step | {' | '.join(groups)} |", "|---|" + "---:|" * len(groups)]
    for name, row in document["results"].items():
        whole = sum(row.values())
        cells = [f"{row.get(g, 0.0):.0f} ms, {row.get(g, 0.0) / whole:.0%}" for g in groups]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", where(document)])


def epoch() -> str:
    """An epoch of training beside the float network's, and beside what the machine can do."""
    document = load("epoch-cpu")
    lines = ["| network | images/s | times the float network | data | floor | times the floor |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, row in document["results"].items():
        ours, base = row["W4A4"], row["floor"]["arithmetic_s"] + row["floor"]["memory_s"]
        cells = [f"{document['settings']['images'] / ours['seconds']:.0f}"]
        cells += [
            f"{ours['seconds'] / row['float']['seconds']:.2f}",
            f"{ours['data_s'] / ours['seconds']:.1%}",
        ]
        cells += [f"{base:.1f} s", f"{ours['seconds'] / base:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{document['settings']['images']} images; {where(document)}"])


def memory() -> str:
    """The most memory of a training step."""
    document = load("memory-cpu")
    columns = ("float", "ours", "learned", "brevitas")
    lines = ["| MiB | float | unlearning | training | Brevitas, float32 |", "|---|---:|---:|---:|---:|"]
    for name, row in document["results"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[c]:.0f}' for c in columns)} |")
    return "\n".join([*lines, "", where(document)])


def agreement() -> str:
    """Networks of the fast path and of Brevitas' own layers, over seeds."""
    document = load("agreement")
    lines = ["| network | test accuracy | of Brevitas' layers | codes that differ | after fine-tuning |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in document["results"].items():
        cells = (row[k]["all"] for k in ("fast", "brevitas", "codes", "tuned_codes"))
        lines.append(f"| {name} | {' | '.join(spread([100 * v for v in cell], 2) for cell in cells)} |")
    seeds = len(document["settings"]["seeds"])
    return "\n".join([*lines, "", f"percent; {seeds} seeds, commit {document['commit']}"])


def together() -> str:
    """Retrained references at the same time."""
    document = load("together-cpu")
    lines = ["| at once | seconds | times as long as one after another |", "|---:|---:|---:|"]
    for name, row in document["results"].items():
        lines.append(f"| {name} | {row['seconds']:.1f} ± {row['deviation']:.1f} | {row['ratio']:.2f} |")
    settings = document["settings"]
    return "\n".join([*lines, "", f"{settings['references']} references; {where(document)}"])


def neighbours() -> str:
    """Training beside other processes: images a second, and times one training alone."""
    document = load("neighbours-cpu")
    found, cases = document["results"], ("alone", "two", "beside a busy process")
    base = found["never fewer threads, alone"]["images_per_s"]
    lines = ["| threads | alone | two together | beside a busy process |", "|---|---:|---:|---:|"]
    for policy in dict.fromkeys(name.partition(", ")[0] for name in found):
        rows = (found[f"{policy}, {case}"] for case in cases)
        cells = (
            f"{r['images_per_s']:.0f} ± {r['deviation']:.0f} ({r['images_per_s'] / base:.2f})" for r in rows
        )
        lines.append(f"| {policy} | {' | '.join(cells)} |")
    settings = document["settings"]
    return "\n".join(
        [*lines, "", f"{settings['rounds']} rounds of {settings['seconds']} s; {where(document)}"]
    )


def alike() -> str:
    """False alarms among images that are no copies, and how often a changed picture is found again."""
    document = load("alike")
    changes = list(next(iter(document["results"].values()))["found"])
    columns = ("data", "images", "with a false alarm", "pairs", *changes)
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    for name, r in document["results"].items():
        cells = (f"{r['images']:,}", f"{r['of_images']:.2%}", f"{r['of_pairs']:.0e}")
        found = (f"{100 * r['found'][change]:.0f} %" for change in changes)
        lines.append(f"| {name} | {' | '.join((*cells, *found))} |")
    return "\n".join(
        [*lines, "", f"{document['settings']['images']} images of each at most; commit {document['commit']}"]
    )


def export() -> str:
    """Size, exactness and speed of the exported files: how many times as fast as the float file."""
    document = load("export")
    columns = ("network", "file", "KiB", "of the bits alone", "logits differ by", "batch 1", "batch 64")
    lines = [f"| {' | '.join(columns)} | batch 64, 2 threads |", "|---|---|---:|---:|---:|---:|---:|---:|"]
    for network, found in document["results"].items():
        for name in ("float", "static int8", "qcdq", "integer", "packed"):
            if name not in found["bytes"]:
                continue
            size, difference = found["bytes"][name], found["largest_difference"].get(name)
            cells = [f"{size / 1024:.0f}", f"{size / found['limit_bytes']:.3f}"]
            cells.append("-" if difference is None else "0" if difference == 0 else f"{difference:.0e}")
            for key in ("1 threads, batch 1", "1 threads, batch 64", "2 threads, batch 64"):
                row = found[key].get(name)
                cells.append(f"{1 / row['ratio']:.2f}x" if row else "-")
            lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", where(document)])


def openvino() -> str:
    """The second runtime: times as fast as its own float run, and agreement with onnxruntime."""
    document = load("export")
    lines = ["| network | NNCF int8: batch 1 | batch 64 | our file: batch 1 | batch 64 | same class |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for network, found in document["results"].items():
        if under := found.get("openvino"):
            rows = [under[f"1 threads, batch {b}"][n] for n in ("nncf int8", "openvino") for b in (1, 64)]
            cells = [f"{1 / row['ratio']:.2f}x" for row in rows]
            lines.append(f"| {network} | {' | '.join(cells)} | {under['agreement']:.1%} |")
    return "\n".join([*lines, "", where(document)])


def processors() -> str:
    """Accuracy of exported files with weights of 8 bits and of 7, with ties and without, and their time."""
    document = load("processors")
    found = document["results"]
    variants = list(next(iter(found["accuracy"].values())))
    rows = [
        (network, *(f"{100 * cells[v][0]:.1f} ±{100 * cells[v][1]:.1f}" for v in variants))
        for network, cells in found["accuracy"].items()
    ]
    times = [
        (network, *(f"{cells[v]['ratio']:.2f}" for v in variants)) for network, cells in found["time"].items()
    ]
    tables = (table(("test accuracy %", *variants), *rows), table(("time, ratio", *variants), *times))
    return "\n\n".join([*tables, f"{document['machine']['cpu']}, 1 thread; commit {document['commit']}"])


def runtimes() -> str:
    """Accuracy of a trained network's files under both runtimes."""
    document = load("runtimes")
    lines = ["| network | runs as | test accuracy | same class as in torch |", "|---|---|---:|---:|"]
    for network, found in document["results"].items():
        for name, row in found["rows"].items():
            lines.append(f"| {network} | {name} | {row['accuracy']:.2%} | {row['agreement']:.2%} |")
    images = {found["images"] for found in document["results"].values()}
    return "\n".join([*lines, "", f"{max(images)} test images of CIFAR-10; commit {document['commit']}"])


def authors() -> str:
    """An epoch of Q-MUL, ours and the authors'."""
    document = load("authors-cpu")
    lines = ["| images | ours | the authors' loop | times as long |", "|---:|---:|---:|---:|"]
    ours, theirs = (document["results"][name] for name in ("ours", "theirs"))
    seconds = (f"{row['mean_ms'] / 1e3:.1f} ± {row['deviation_ms'] / 1e3:.1f} s" for row in (ours, theirs))
    lines.append(f"| {document['settings']['images']} | {' | '.join(seconds)} | {theirs['ratio']:.1f} |")
    return "\n".join([*lines, "", where(document)])


def spread(values: list[float], digits: int = 1) -> str:
    """Mean and standard deviation.

    >>> spread([1.0, 2.0]), spread([1.0])
    ('1.5 ±0.7', '1.0')
    """
    deviation = f" ±{stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def photos() -> str:
    """What a large set of photographs costs."""
    document = load("photos")
    found, gib = document["results"], 2**30
    spent = found["epoch_of_512"]
    rows = {
        f"{found['images']:,} JPEGs": f"{found['jpeg_bytes'] / gib:.1f} GiB",
        "decoded, on disk": f"{found['cache_bytes'] / gib:.1f} GiB",
        "register": f"{found['register']['seconds']:.0f} s, "
        f"{found['register']['own_memory_mb']:.0f} MiB of own memory",
        "open again, every image hashed": f"{found['open']['seconds']:.0f} s, "
        f"{found['open']['own_memory_mb']:.0f} MiB",
        "data, of an epoch": f"{1e3 * spent['data_s'] / spent['images']:.1f} ms an image",
        "steps": f"{1e3 * spent['step_s'] / spent['images']:.1f} ms an image",
    }
    lines = ["| what | cost |", "|---|---:|", *(f"| {name} | {cost} |" for name, cost in rows.items())]
    return "\n".join([*lines, "", f"{document['machine']['cpu']}; commit {document['commit']}"])


def scale() -> str:
    """Large projects: a million samples, 60,000 images, a thousand requests."""
    index, opening, requests = load("index"), load("opening"), load("requests_scale")
    made, first, turns = index["results"], opening["results"], requests["results"]["turns"]
    rows = {
        "1,000,000 samples: register": f"{made['project']['write_s']:.1f} s, "
        f"ledger of {made['project']['ledger_mb']:.0f} MiB",
        "find one person's samples": f"{made['resolve']['resolve_ms']:.0f} ms, "
        f"{made['resolve']['peak_mb']:.0f} MiB at most",
        "`qmu-edge status`": f"{made['status']['process_s']:.2f} s",
        f"{first['images']:,} images: first use": f"{first['first_use_s']:.1f} s",
        "use again, every image hashed": f"{first['open_median_s']:.2f} s",
        f"{requests['results']['receipts']:,} requests in batches of {turns[0]['requests']}: register each": (
            f"{1e3 * max(t['add_s'] / t['requests'] for t in turns):.0f} ms at most"
        ),
        "fulfil a batch, a receipt for each": f"{max(t['serve_s'] for t in turns):.1f} s at most",
        "ledger afterwards": f"{requests['results']['after']['ledger_bytes'] / 2**20:.1f} MiB",
    }
    commits = ", ".join(d["commit"] for d in (index, opening, requests))
    lines = ["| what | cost |", "|---|---:|", *(f"| {name} | {cost} |" for name, cost in rows.items())]
    return "\n".join([*lines, "", f"{index['machine']['cpu']}; commits {commits}"])
