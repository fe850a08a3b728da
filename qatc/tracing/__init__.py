"""How a graph is made of a model: by running its own Python on fake tensors, or by `torch.fx.Tracer` without inputs."""
