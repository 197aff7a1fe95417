"""The device side: what the exported file does, with numpy and onnxruntime alone.

The verdict of qmu-edge is about the ONNX file that ships. Everything here therefore reads that
file, never a torch model, and treats it as hostile input. Nothing is imported by this module; take
what you need:

    from qmu_edge.verify.onnx.reader import read                      # strict reader, model-file policy
    from qmu_edge.verify.latent_weights import latent_weight_gate   # only integer codes may leave
    from qmu_edge.verify.session import OrtRunner                     # uint8 images -> logits
    from qmu_edge.verify.evaluation import evaluate
    from qmu_edge.verify.verdict import held_out, judge, Thresholds

    latent_weight_gate(read(path))
    evaluation, logits = evaluate(path, {"forget": (images, labels), "test": (images, labels)})
    verdict = judge(evaluation, held_out(evaluation, original), Thresholds(), original)

| module | what for |
|---|---|
| `onnx` | the wire format, what is in an ONNX file, its strict reader and the model-file policy |
| `latent_weights` | the gate: no float weights behind the codes |
| `session` | one onnxruntime session on the CPU |
| `metrics`, `mia` | accuracy, confidence, intervals; membership inference by threshold |
| `parity`, `integer_reference` | two sets of logits compared; the file computed in integers |
| `evaluation`, `verdict` | the figures of one file, and the judgement by thresholds |
| `bundle`, `npz` | device bundles; images, labels and golden logits from `.npz` files |
| `check`, `render` | all of it for one file, and the result as a table or JUnit XML |

The same from a shell: `python -m qmu_edge.verify MODEL.onnx --data SETS.npz --json`.
"""
