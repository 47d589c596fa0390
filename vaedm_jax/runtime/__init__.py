"""The machine: devices, memory, several processes that work together, and what is set for the whole process."""
