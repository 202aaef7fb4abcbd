"""Writing text token by token, for evaluations and for roll-outs."""
