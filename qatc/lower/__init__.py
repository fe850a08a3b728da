"""From a trained graph to an ONNX file, and the check that they agree."""


def lower(*a): ...
