"""The parts of a loaded model: its layers, the layers that adapters target, its positions."""
