"""The device side: what the exported file does, with numpy and onnxruntime alone.

The verdict of qmu-edge is about the ONNX file that ships. Everything here therefore reads that
file, never a torch model, and treats it as hostile input. Nothing is imported by this module; take
what you need:

    from qmu_edge.verify.onnx_file import read               # strict reader, model-file policy
    from qmu_edge.verify.gates import check_latent_weights   # only integer codes may leave
    from qmu_edge.verify.runner import OrtRunner             # uint8 images -> logits
    from qmu_edge.verify.report import evaluate, held_out, judge, Thresholds

    check_latent_weights(read(path))
    evaluation, logits = evaluate(path, {"forget": (images, labels), "test": (images, labels)})
    verdict = judge(evaluation, held_out(evaluation, original), Thresholds(), original)

| module | what for |
|---|---|
| `wire` | the protobuf wire format |
| `graph`, `onnx_file` | what is in an ONNX file; its strict reader and the model-file policy |
| `gates` | the latent-weight gate: no float weights behind the codes |
| `runner` | one onnxruntime session on the CPU |
| `metrics`, `mia` | accuracy, confidence, intervals; membership inference by threshold |
| `parity` | two sets of logits compared |
| `report` | the evaluation of one file, and the judgement by thresholds |
| `sets` | images, labels and golden logits from `.npz` files |

The same from a shell: `python -m qmu_edge.verify MODEL.onnx --data SETS.npz --json`.
"""
