"""Audit the file of a request: one attack after another, each result stored when it is done.

What is stored already is not computed again, so a killed audit goes on with the attack that it was at. The
results are for people: nothing that they say changes a verdict, a receipt or a release.
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NotRequired, TypedDict

import numpy as np
import torch

from qmu_edge import __version__
from qmu_edge.audit.attack import Attack, Work
from qmu_edge.audit.registry import ATTACKS, named
from qmu_edge.audit.subject import Subject
from qmu_edge.io.digest import Sha256, salted, sha256_of
from qmu_edge.io.files import write_atomic
from qmu_edge.io.plain import to_json
from qmu_edge.pipeline.audit_subject import Fulfilled
from qmu_edge.pipeline.evaluate import measured_file, runnable
from qmu_edge.pipeline.heat_maps import heat_maps_of
from qmu_edge.pipeline.make_receipt import require_impersonal
from qmu_edge.pipeline.references import Bank
from qmu_edge.project.audits import AttackResult
from qmu_edge.queue.lifecycle import answered, require
from qmu_edge.request.resolve import Claim
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.verify.figures import LEAST, in_fives
from qmu_edge.verify.residual import LEAST_UNSEEN

DONE: Final = "done"
AROUND_S: Final = 0.5  # of an attack, beside what it takes images through
NETWORK_S: Final = 0.4  # of a network that is loaded or copied: its modules, not its weights
WHOLE_CLASSES: Final = "only whole classes were forgotten: the attack tells samples of classes that stay"
FEW_FORGOTTEN: Final = f"fewer than {LEAST} forgotten images: nothing is said of so few"
FEW_UNSEEN: Final = f"fewer than {LEAST_UNSEEN} images that were never trained on to compare with"
UNCALIBRATED: Final = "the verdict had no references: what others would make of the images is not known"
SENTENCES: Final = frozenset(
    {WHOLE_CLASSES, FEW_FORGOTTEN, FEW_UNSEEN, UNCALIBRATED}.union(
        *(attack.quantities for attack in ATTACKS.values())
    )
)


class AttackRow(TypedDict):
    """One attack, as whoever asked is told; the fields from `seconds` on where it was made.

    Attributes:
        summary: In a few words.
        state: "to do", "done", or why it is left.
        expected_seconds: What it was expected to take, 0 where nothing is to be done; None where that is not
            known.
        seconds, forgotten, unseen, without, findings: See `AttackResult`.
    """

    summary: str
    state: str
    expected_seconds: float | None
    seconds: NotRequired[float]
    forgotten: NotRequired[int]
    unseen: NotRequired[int]
    without: NotRequired[str]
    findings: NotRequired[list[Mapping[str, object]]]


class Audited(TypedDict):
    """An audit: the request, the network and the file, and each attack by its name."""

    request: str
    checkpoint: Sha256
    file: str
    dry_run: bool
    attacks: dict[str, AttackRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to do, as the caller asked.

    Attributes:
        device: Where to compute.
        attacks: Their names; () for all.
        budget_s: No further attack begins that many seconds after `started`, nor one that is expected to end
            later; None for no limit.
        pictures: Where to write heat maps of a few images; None for no file.
        forgotten_too: Also of forgotten ones.
        started: When the command was given, on the monotonic clock.
    """

    device: torch.device
    attacks: tuple[str, ...] = ()
    budget_s: float | None = None
    pictures: Path | None = None
    forgotten_too: bool = False
    started: float = field(default_factory=time.monotonic)

    def allows(self, expected: float | None) -> bool:
        """Whether an attack that is expected to take so long may begin."""
        if self.budget_s is None:
            return True
        return time.monotonic() - self.started + (expected or 0.0) < self.budget_s


def audit(
    bank: Bank, ledger: Ledger, root: Path, request: str | None, effort: Effort, *, dry_run: bool
) -> Audited:
    """Attack the file that a request was released with.

    Args:
        bank: With the parts of the project, which is locked but for a dry run.
        ledger: Of the project.
        root: Its folder.
        request: Its id; that of the current receipt when None.
        effort: Which attacks, where, and for how long.
        dry_run: Only say what each is expected to take.

    Raises:
        ConfigError: Unknown attack; no receipt yet; what an attack needs is purged.
        RequestError: No such request, or it has no receipt.
    """
    chosen, row = named(effort.attacks), require(ledger, request or answered(ledger, root))
    of = Fulfilled.of(bank, ledger, row)
    known = bank.results.audited(of.release.checkpoint)
    rows = {name: _row(of, name, attack, known.get(name)) for name, attack in chosen.items()}
    subject = None
    for name, row_of in rows.items():
        if dry_run or row_of["state"] == DONE:
            continue
        if not effort.allows(row_of["expected_seconds"]):
            row_of["state"] = "left: the budget is spent"
            continue
        subject = subject or of.subject(effort.device)
        rows[name] = _told({**row_of, "state": DONE}, _made(of, name, subject, root))
    if effort.pictures and not dry_run:
        page = heat_maps_of(subject or of.subject(effort.device), forgotten_too=effort.forgotten_too)
        write_atomic(effort.pictures, page, mode=0o600)
    return {
        "request": row.request_id, "checkpoint": of.release.checkpoint,
        "file": runnable(of.release), "dry_run": dry_run, "attacks": rows,
    }  # fmt: skip


def _row(of: Fulfilled, name: str, attack: Attack, known: AttackResult | None) -> AttackRow:
    done = known is not None and known.is_of(_name(of, name))
    expected = 0.0 if done or _lacking(of, attack) else _seconds(of, attack.work(of.sizes()))
    row: AttackRow = {
        "summary": attack.summary, "state": DONE if done else "to do", "expected_seconds": expected,
    }  # fmt: skip
    return _told(row, known) if done and known else row


def _made(of: Fulfilled, name: str, subject: Subject, root: Path) -> AttackResult:
    """Make an attack, look for personal data in what it says, and store it."""
    bank, attack, start = of.bank, ATTACKS[name], time.monotonic()
    bank.progress.note(f"attack {name}: {attack.summary}")
    without = _lacking(of, attack)
    findings, sizes = () if without else attack.run(subject), of.sizes()
    salt = secrets.token_hex(32)
    forgotten, unseen = in_fives(np.array([sizes.forgotten, sizes.unseen]))
    result = AttackResult(
        attack=name, made_of=salted(_name(of, name), salt), forgotten=forgotten, unseen=unseen,
        findings=findings, without=without, seconds=round(time.monotonic() - start, 3), salt=salt,
    )  # fmt: skip
    claim, index = Claim.parse(bank.store.get_bytes(of.claim)), bank.samples.index
    require_impersonal(
        to_json(result), row=of.row, claim=claim, index=index, root=root, what="audit", sentences=SENTENCES
    )
    stored = bank.store.put_bytes(result.to_bytes())
    bank.results.note_audited(of.release.checkpoint, name, stored)
    return result


def _name(of: Fulfilled, attack: str) -> Sha256:
    """Digest of all that goes into one result."""
    files = of.report.original.evaluation.sha256, measured_file(of.release)
    samples = [at.astype("<i8").tobytes().hex() for at in of.positions.values()]
    recipe = of.bank.recipe.digest()
    return sha256_of(json.dumps([attack, __version__, *files, recipe, *samples]).encode())


def _lacking(of: Fulfilled, attack: Attack) -> str:
    """Why an attack can say nothing here; "" where it can."""
    sizes = of.sizes()
    if not attack.compares:
        return ""
    if len(of.split.forget) and not sizes.forgotten:
        return WHOLE_CLASSES
    if sizes.forgotten < LEAST:
        return FEW_FORGOTTEN
    if sizes.unseen < LEAST_UNSEEN:
        return FEW_UNSEEN
    return UNCALIBRATED if attack.calibrated and not of.comparison.references else ""


def _seconds(of: Fulfilled, work: Work) -> float | None:
    """What a piece of work is expected to take; None where no training was measured on this project."""
    evaluation, recipe = of.report.unlearned.evaluation, of.bank.recipe
    shares = (evaluation.fa, evaluation.ra, evaluation.ta, evaluation.va)
    images = sum(share.n for share in shares if share is not None)
    per_image = of.bank.results.seconds_per_image(recipe.train.epochs)
    trained = work.trained + work.references * of.bank.results.reference_share(recipe.train.epochs)
    if trained and not per_image:
        return None
    forward = work.forward * evaluation.seconds / max(1, images)
    around = AROUND_S + work.seconds + NETWORK_S * work.networks
    return round(around + forward + trained * per_image + work.exports * of.export_s, 1)


def _told(row: AttackRow, result: AttackResult) -> AttackRow:
    return {
        **row, "seconds": result.seconds, "forgotten": result.forgotten, "unseen": result.unseen,
        "without": result.without, "findings": to_json(result.findings),
    }  # fmt: skip
