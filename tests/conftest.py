import torch

torch.set_num_threads(1)  # tensors are tiny: threads cost more than they give, ten times so on a busy machine
