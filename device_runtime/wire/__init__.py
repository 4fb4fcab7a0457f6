"""The contract both ends share: pure functions over bytes, tensors and records, importing nothing of ours."""
