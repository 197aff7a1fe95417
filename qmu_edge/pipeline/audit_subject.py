"""The subject of an audit: what is stored of a request that was fulfilled, as attacks are given it.

Images, files and networks are those that the verdict was taken of. What a purge has removed cannot be
attacked any more: neither can the request be audited then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from qmu_edge.audit.attack import Sizes
from qmu_edge.audit.subject import Attacked, Known, Means, Subject
from qmu_edge.data.shards import owners
from qmu_edge.errors import ConfigError
from qmu_edge.export.exporter import export
from qmu_edge.export.targets import Format
from qmu_edge.io.digest import Sha256
from qmu_edge.models.build import build
from qmu_edge.models.layers import Classifier
from qmu_edge.models.names import QUANTIZER
from qmu_edge.pipeline.comparison import MAX_BYTES, Comparison
from qmu_edge.pipeline.evaluate import measured_file, stored_file
from qmu_edge.pipeline.inputs import shape_of
from qmu_edge.pipeline.references import Bank
from qmu_edge.pipeline.release import parity_images, planned, with_all_outputs
from qmu_edge.project.records import Release, Report
from qmu_edge.receipt import receipt
from qmu_edge.request.split import Split
from qmu_edge.request.stored import Positions
from qmu_edge.store.ledger.ledger import Ledger
from qmu_edge.store.ledger.requests import RequestRow
from qmu_edge.store.ledger.states import Step
from qmu_edge.train.batches import Augment, Samples, on_device
from qmu_edge.train.fit import calibrate_on, predict
from qmu_edge.train.requantize import requantize
from qmu_edge.verify.evaluation import SetName
from qmu_edge.verify.onnx.reader import parse_file
from qmu_edge.verify.residual import Compared, Values
from qmu_edge.verify.verdict import unseen_among

FIRST_SHADOW: Final = 500  # a number that no reference has


@dataclass(frozen=True)
class Fulfilled:
    """What is stored of a request that was fulfilled.

    Attributes:
        bank: With the parts of the project.
        row: The request.
        release: The files that it was released with.
        report: What was measured.
        comparison: What the verdict was made of.
        split: The sets of its run.
        before: Digest of the network before.
        claim: Digest of the samples that it names.
        export_s: Seconds that the export took.
    """

    bank: Bank
    row: RequestRow
    release: Release
    report: Report
    comparison: Comparison
    split: Split
    before: Sha256
    claim: Sha256
    export_s: float

    @classmethod
    def of(cls, bank: Bank, ledger: Ledger, row: RequestRow) -> "Fulfilled":
        """What is stored of a request.

        Raises:
            RequestError: It is open, or was closed otherwise.
            ConfigError: A purge has removed what an attack needs.
        """
        row.require_fulfilled("audit", "a file to attack")
        results, store = bank.results, bank.store
        steps = results.fulfilled_steps(row.request_id)
        verified, exported = steps[Step.VERIFIED], steps[Step.EXPORTED]
        digests = {
            "the released file": exported.release, "what it was judged by": verified.comparison,
            "the report": verified.report, "the sets of the run": steps[Step.UNLEARNED].split,
        }  # fmt: skip
        stated = receipt.loads(store.get_bytes(ledger.receipt_of(row.request_id)), "receipt")
        before = stated.predicate.checkpoints.before
        for what, digest in {**digests, "the network before": before}.items():
            if digest is None or results.purged(Sha256(digest)):
                raise _gone(row, what)
        found = cls(
            bank=bank, row=row, before=Sha256(str(before)),
            release=results.release(exported.stored("release")),
            report=results.report(verified.stored("report")),
            comparison=Comparison.parse(store.get_bytes(verified.stored("comparison"), limit=MAX_BYTES)),
            split=Split.parse(store.get_bytes(steps[Step.UNLEARNED].stored("split"))),
            claim=steps[Step.RESOLVED].stored("claim"), export_s=float(exported.seconds or 0.0),
        )  # fmt: skip
        if set(found.split.forget.tolist()) & ledger.erased_images().keys():
            raise _gone(row, "its images")
        if results.purged(found.report.original.evaluation.sha256):
            raise _gone(row, "the file before")
        return found

    @cached_property
    def positions(self) -> Mapping[SetName, Positions]:
        """Of forgotten samples whose classes stay, of unseen and of retained ones; as "test" the unseen."""
        comparison, index = self.comparison, self.bank.samples.index
        barred, classes = self.bank.samples.barred(), len(index.class_names)
        at = comparison.positions(barred)
        sets = {
            name: Compared(
                labels=index.labels[positions], classes=classes,
                right=comparison.before.right[name][kept], score=comparison.before.scores[name][kept],
                references=comparison.references[name][kept] if name in comparison.references else None,
                people=owners(index, positions),
            )
            for name, positions in at.items()
            for kept in [comparison.kept(name, barred)]
        }  # fmt: skip
        none = np.zeros(0, np.int64)
        forget, retain = (at.get(name, none) for name in (SetName.FORGET, SetName.RETAIN))
        if comparison.references:
            forget, retain = (of[np.isfinite(self._expected[of])] for of in (forget, retain))
        unseen, chosen = unseen_among(sets) or (SetName.TEST, none)
        return {
            SetName.FORGET: forget[~np.isin(index.labels[forget], self.report.terms.classes)],
            SetName.TEST: at.get(unseen, none)[chosen],
            SetName.RETAIN: retain,
        }

    @cached_property
    def _expected(self) -> Values:
        """What references expect of each sample of the index (n,); NaN where there is nothing."""
        found = np.full(len(self.bank.samples.index.ids), np.nan)
        for name, scores in self.comparison.references.items():
            found[self.comparison.before.positions[name]] = scores
        return found

    @cached_property
    def sets(self) -> Mapping[SetName, Known]:
        """The images at `positions`, and what references expect of each."""
        samples, index = self.bank.samples, self.bank.samples.index
        return {
            name: Known(
                images=samples.images[positions], labels=index.labels[positions],
                people=owners(index, positions),
                expected=self._expected[positions] if self.comparison.references else None,
            )
            for name, positions in self.positions.items()
        }  # fmt: skip

    def sizes(self) -> Sizes:
        """How large an audit is."""
        recipe, n = self.bank.recipe, {name: len(at) for name, at in self.positions.items()}
        return Sizes(
            forgotten=n[SetName.FORGET], unseen=n[SetName.TEST], retained=n[SetName.RETAIN],
            training=len(self.split.retain), views=2 if recipe.data.flip else 1,
            epochs=(recipe.references.epochs or recipe.train.epochs) * recipe.train.passes,
        )  # fmt: skip

    def subject(self, device: torch.device) -> Subject:
        """As attacks are given it."""
        sets, store, networks = self.sets, self.bank.store, self.bank.networks

        def attacked(file: Sha256, checkpoint: Sha256) -> Attacked:
            def network() -> Classifier:
                return networks.load(checkpoint)[0].to(device)

            return Attacked(stored_file(store, file), network, flip=self.bank.recipe.data.flip)

        return Subject(
            forgotten=sets[SetName.FORGET], unseen=sets[SetName.TEST], retained=sets[SetName.RETAIN],
            original=attacked(self.report.original.evaluation.sha256, self.before),
            file=attacked(measured_file(self.release), self.release.checkpoint),
            intraclass=self.report.terms.intraclass, means=ProjectMeans(self, device),
            seed=self.bank.recipe.train.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class ProjectMeans(Means):
    """What attacks on a project's file may ask for.

    Attributes:
        of: The request.
        device: Where to compute.
    """

    of: Fulfilled
    device: torch.device

    def samples(self, known: Known) -> Samples:
        """See `Means`."""
        limit = int(self.of.bank.recipe.data.memory_gb * 2**30)
        return on_device(known.images, known.labels, self.device, limit_bytes=limit)

    def references(self) -> Mapping[Known, Values]:
        """See `Means`: on shards of what may still be trained on, as for a request of its own."""
        bank, positions = self.of.bank, self.of.positions
        retain = np.intersect1d(self.of.split.retain, bank.samples.trainable())
        scored = np.concatenate([*positions.values()])
        found = bank.for_request(self.of.split.digest(), retain, scored, self.device)
        scores = np.stack([one.scores for one in found]).astype(np.float64)
        return {self.of.sets[name]: scores[:, at] for name, at in positions.items()}

    def shadow(self, training: Known, asked: Sequence[Known], number: int) -> list[NDArray[np.float32]]:
        """See `Means`: a float network like a reference; a killed one goes on."""
        trained = self.of.bank.trained_on(self.samples(training), FIRST_SHADOW + number, f"shadow-{number}")
        return [predict(trained, self.samples(known)).numpy() for known in asked]

    def requantized(self, bits: int, asked: Sequence[Known]) -> list[Values]:
        """See `Means`: calibrated on retained images, as an adopted network is."""
        bank, recipe = self.of.bank, self.of.bank.recipe
        released, _ = bank.networks.load(self.of.release.checkpoint)
        width = recipe.model.model_copy(update={"weight_bits": bits})
        shape, seed = shape_of(bank.samples, recipe.data), recipe.train.seed
        floats = {n: t for n, t in released.state_dict().items() if QUANTIZER not in n}
        model = build(width, shape, seed, bank.networks.factory, floats)
        retained = on_device(
            self.of.sets[SetName.RETAIN].images, self.of.sets[SetName.RETAIN].labels,
            torch.device("cpu"), limit_bytes=0,
        )  # fmt: skip
        calibrate_on(model, retained, recipe.train.batch, torch.Generator().manual_seed(seed), Augment())
        requantize(model, retained, batch=recipe.train.batch, seed=seed, progress=bank.progress)
        names = bank.networks.origin(self.of.release.checkpoint).class_names
        plan = planned(names, bank.samples, recipe, formats=(Format.INTEGER,))
        if plan.outputs is not None:  # as of the released file, the one with all of them is measured
            plan = with_all_outputs(plan, names)
        (made,) = export(
            model, plan, images=parity_images(bank.samples, recipe.policy.parity_inputs),
            min_agreement=recipe.policy.min_agreement, min_inputs=recipe.policy.parity_inputs,
        )  # fmt: skip
        file = Attacked(
            parse_file(made.data, Path(made.format.file_name)), lambda: model, flip=recipe.data.flip
        )
        return [file.scores(known) for known in asked]


def _gone(row: RequestRow, what: str) -> ConfigError:
    return ConfigError(
        f"request {row.request_id}: cannot be audited: {what} is purged, or an older version did not keep it"
    )
