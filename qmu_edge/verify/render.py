"""Results of the verifier as a table, and as JUnit XML."""

from typing import Any
from xml.etree import ElementTree


def junit(result: dict[str, Any], error: str = "") -> str:
    """The result as JUnit XML, one case for each check."""
    cases = [("verify", error)] if error else [("model file policy", ""), ("latent weights", "")]
    if result.get("bundle"):
        cases += [("digests", ""), ("signature", "")]
        cases += [("receipt", "")] if result["bundle"]["receipt"] else []
    if result.get("parity"):
        cases.append(("parity", ""))
    for check in (result.get("verdict") or {}).get("checks", ()):
        missed = f"{check['value']}, allowed {check['allowed']}"
        cases.append((check["name"], "" if check["passed"] else missed))
    suite = ElementTree.Element(
        "testsuite",
        name="qmu_edge.verify",
        tests=str(len(cases)),
        failures=str(sum(bool(m) for _, m in cases)),
    )
    for name, message in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="qmu_edge.verify", name=name)
        if message:
            ElementTree.SubElement(case, "failure", message=message)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def table(result: dict[str, Any]) -> str:
    """The result as lines of text, one for each figure."""
    weights = result["latent_weights"]["weights"]
    lines = [
        f"file            {result['file']}",
        f"sha256          {result['sha256']}",
        f"bytes           {result['bytes']}",
        f"latent weights  none in {len(weights)} weight tensors",
    ]
    if parity := result["parity"]:
        lines.append(f"parity          {parity['agreement']:.3%} of {parity['n']} inputs")
    for name in ("fa", "ra", "ta", "va"):
        if found := (result["evaluation"] or {}).get(name):
            interval = f"{found['low']:.2%} to {found['high']:.2%}, n = {found['n']}"
            lines.append(f"{name.upper():15} {found['value']:.2%} ({interval})")
    if found := (result["evaluation"] or {}).get("mia_auc"):
        interval = f"{found['low']:.4f} to {found['high']:.4f}"
        lines.append(f"MIA AUC         {found['value']:.4f} ({interval})")
    if about := result.get("bundle"):
        lines.append(f"bundle          {about['files']} files as the manifest says")
        lines.append(f"signature       {about['signature']}")
        lines.append(f"receipt         {about['receipt'] or 'none'}")
        for batch, ms in about["latency_ms"].items():
            lines.append(f"{batch:15} " + ", ".join(f"{p} {t:.2f} ms" for p, t in ms.items()))
        if about["peak_mb"] is not None:
            lines.append(f"peak memory     {about['peak_mb']:.0f} MB")
    for check in (result["verdict"] or {}).get("checks", ()):
        value = "not measured" if check["value"] is None else f"{check['value']:.4f}"
        word = "ok" if check["passed"] else "FAILED"
        lines.append(f"{check['name']:15} {value}, allowed {check['allowed']:.4f}: {word}")
    return "\n".join([*lines, f"passed          {'yes' if result['passed'] else 'no'}"])
