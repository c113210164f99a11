"""What another program takes: a finished model as ONNX or as a torch.export program, checked against the model."""
