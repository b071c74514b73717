"""Mathematics on tensors: tensors in, tensors out, nothing about programs."""
