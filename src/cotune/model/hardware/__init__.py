"""Detection of the machine's devices, speed and memory."""
