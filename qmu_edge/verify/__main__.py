"""The verifier as a command: `python -m qmu_edge.verify MODEL.onnx|BUNDLE [--data SETS.npz] ...`.

The model-file policy and the gates always run. A bundle brings golden inputs and thresholds: its digests,
signature, number and receipt are verified first, and latency and memory are reported. For a single file
`--golden` compares with recorded logits. With `--data` the file is evaluated and judged. The result goes to
stdout, messages go to stderr, and the exit status is that of `qmu_edge.errors`: 7 for a missed threshold or a
bundle that no receipt covers, 2 where it takes longer than it may.
"""

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Final

from qmu_edge.errors import ConfigError, QmuEdgeError, VerificationFailed, printable
from qmu_edge.verify import bundle
from qmu_edge.verify.render import junit, junit_error, table
from qmu_edge.verify.session import OPTIMIZATION
from qmu_edge.verify.verdict import Thresholds
from qmu_edge.verify.verification import Options, Verification, verify_bundle, verify_file

INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit status.
    """
    arguments = _parser().parse_args(argv)
    limit = threading.Timer(arguments.timeout, _give_up, [arguments])
    limit.daemon = True
    limit.start()
    try:
        found = _verify(arguments)
        _tell(found, arguments)
    except QmuEdgeError as error:
        return _failed(arguments, error)
    except KeyboardInterrupt:
        print("qmu_edge.verify: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, OSError) as error:  # not the bundle's fault, and no bug
        return _failed(arguments, _lacking(error))
    finally:
        limit.cancel()
    if found.passed:
        return 0
    covered = found.bundle is None or found.bundle.covered
    why = "a threshold is not met" if covered else "not covered by a receipt"
    print(printable(f"qmu_edge.verify: {arguments.model}: {why}"), file=sys.stderr)
    return VerificationFailed.exit_code


def _tell(found: Verification, arguments: argparse.Namespace) -> None:
    if arguments.junit:
        arguments.junit.write_text(junit(found), "utf-8")
    text = json.dumps(found.to_json(), indent=2, sort_keys=True) if arguments.json else table(found)
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries again at its end
        raise


def _lacking(error: MemoryError | OSError) -> ConfigError:
    if isinstance(error, MemoryError):
        return ConfigError("not enough memory")
    return ConfigError(f"{error.filename or 'the result'}: cannot be written: {error.strerror}")


def _failed(arguments: argparse.Namespace, error: QmuEdgeError) -> int:
    """Say what went wrong, and give the exit status."""
    print(f"qmu_edge.verify: {error}", file=sys.stderr)
    if arguments.junit:
        with suppress(OSError):  # the exit status says it all the same
            arguments.junit.write_text(junit_error(str(error)), "utf-8")
    return error.exit_code


def _give_up(arguments: argparse.Namespace) -> None:
    """End the process: a runtime that computes for too long cannot be asked to stop within an operator."""
    what = f"{arguments.model}: not verified within {arguments.timeout:g} s; --timeout allows more"
    status = _failed(arguments, ConfigError(what))
    sys.stderr.flush()
    os._exit(status)


def _verify(arguments: argparse.Namespace) -> Verification:
    given = vars(arguments)
    limits = {f.name: given[f.name] for f in fields(Thresholds) if f.name in given}
    asked = {f.name: given[f.name] for f in fields(Options) if f.name in given}
    options = Options(**asked, limits=limits)
    if bundle.is_bundle(arguments.model):
        return verify_bundle(bundle.read_bundle(arguments.model, arguments.key), options)
    return verify_file(arguments.model, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m qmu_edge.verify", description="Verify an exported model file."
    )
    parser.add_argument("model", type=Path, help="the ONNX file; or a bundle, folder or .tar")
    parser.add_argument("--key", type=Path, help="the public key that must have signed the bundle")
    parser.add_argument("--state", type=Path, help="file with the highest number accepted; needs --key")
    parser.add_argument("--not-older-than", type=int, metavar="N", help="lowest number of a bundle accepted")
    parser.add_argument("--junit", type=Path, help="write the checks there as JUnit XML")
    parser.add_argument("--data", type=Path, help=".npz: forget_images, forget_labels, test_...")
    parser.add_argument("--golden", type=Path, help=".npz: images and the logits to expect")
    parser.add_argument("--min-golden", type=int, default=1000, help="fewest golden inputs")
    parser.add_argument("--before", type=Path, help="the file before unlearning, to compare with")
    parser.add_argument("--whole", type=Path, help="the file with all outputs, where some were taken out")
    parser.add_argument("--forgotten-class", action="store_true", help="the forget set is whole classes")
    parser.add_argument("--timeout", type=_seconds, default=600, help="give up after so many seconds (600)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimization", choices=[*OPTIMIZATION], default="all")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    for limit in fields(Thresholds):
        flag = "--" + limit.name.replace("_", "-")
        kind = _fraction if limit.type is float else _limit
        help = f"fraction ({limit.default}, or a bundle's own)"
        parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=help)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(
            f"{text} is no time; allowed up to {threading.TIMEOUT_MAX:g} seconds"
        )
    return value


def _limit(text: str) -> float | None:
    return None if text == "none" else _fraction(text)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no fraction; allowed 0 to 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
