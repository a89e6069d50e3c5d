"""A transformers model in this process: what reads, writes and learns, on CPU or GPU."""
