"""Networks: cards, registry, devices and sessions. Nothing here imports onnxruntime before it is needed."""
