"""ONNX files read without onnx: wire format, graph, the strict reader, where weights come from."""
