"""ONNX files read without onnx: wire format, graph, strict reader, work, where weights come from."""
