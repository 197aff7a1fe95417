"""The device side: what an exported file does, with numpy and onnxruntime alone.

The verdict of qmu-edge is about the ONNX file that ships. So everything here reads that file, never a torch
model, and treats it as hostile input. This module imports nothing; `README.md` has an example.

| module | what for |
|---|---|
| `onnx` | the wire format, an ONNX file, its strict reader, what it may compute, where weights come from |
| `metadata` | what a file says about itself |
| `codes`, `codes_changed`, `latent_weights` | integer codes and grids; how many changed; the gate |
| `session`, `performance` | one onnxruntime session on the CPU; its latency and memory |
| `metrics`, `mia` | accuracy, confidence, intervals; membership inference by threshold |
| `parity`, `integer_reference` | two sets of logits compared; a file computed in integers by numpy |
| `exactness`, `rounding` | whether all processors compute the same bits; how kernels round |
| `evaluation`, `residual`, `verdict` | the figures of one file; what is left; the judgement |
| `figures` | what the plots of a verdict are made of |
| `manifest`, `archive`, `bundle` | what a bundle holds; an archive unpacked; a bundle opened and verified |
| `coverage`, `newest` | whether its receipt covers its files; whether it is the newest |
| `arrays` | images, labels and logits from `.npz` and `.npy` files |
| `verification`, `render` | all of it for one file or bundle; the result as a table or JUnit XML |

The same from a shell: `python -m qmu_edge.verify MODEL.onnx --data SETS.npz --json`.
"""
