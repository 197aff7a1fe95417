"""The device side: what the exported file does, with numpy and onnxruntime alone.

The verdict of qmu-edge is about the ONNX file that ships. Everything here therefore reads that file, never a
torch model, and treats it as hostile input. Nothing is imported by this module; `README.md` beside it says
what to take, and the same runs from a shell:

    python -m qmu_edge.verify MODEL.onnx --data SETS.npz --json
"""
