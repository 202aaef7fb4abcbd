"""The base model: its files, loading it (quantized or not), and its layers."""
