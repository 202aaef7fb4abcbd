"""The base model: finding its files, loading it, quantized or not, and knowing its layers."""
