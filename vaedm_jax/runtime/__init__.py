"""The machine: devices, memory, several processes that work together, and settings of the whole process."""
