"""Accept a bundle on a device, with numpy and onnxruntime alone, and let its network answer.

python -m qmu_edge.api.examples.check_a_bundle BUNDLE KEY.pem STATE.json
"""

import sys
from pathlib import Path

from qmu_edge.errors import QmuEdgeError, VerificationFailed
from qmu_edge.verify.bundle import golden, read_bundle
from qmu_edge.verify.session import OrtRunner
from qmu_edge.verify.verification import Options, verify_bundle


def main(bundle: Path, key: Path, state: Path) -> None:
    """Check signature, number, receipt and gates; then classify the pictures that came with the bundle.

    Args:
        bundle: A folder or a .tar file.
        key: The public key of whoever may send bundles to this device, stored here before.
        state: Where this device notes the newest bundle that it took: none from before is taken again.

    Raises:
        QmuEdgeError: The bundle must not be used.
    """
    files = read_bundle(bundle, key)  # once: what is verified is what runs, whoever swaps files meanwhile
    found = verify_bundle(files, Options(state=state))
    if not found.passed:
        raise VerificationFailed(f"{bundle}: a threshold is not met, or no receipt covers the network")
    assert found.bundle is not None
    print(f"accepted: {found.bundle.signature}; {found.bundle.receipt}; {found.bundle.number}")
    images, _ = golden(files)  # uint8 (n, c, h, w); in their place, what the camera sees
    classes = OrtRunner(files.model).logits(images[:8]).argmax(1)
    print("classes of the first pictures:", *classes)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:4]))
    except QmuEdgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
