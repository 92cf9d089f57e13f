"""The parts of `benchmarks/gpu_check.py`: one module each, run in a process of its own.

A part is a module with `DELIVERS`, the names of the measurements it must leave, and `run(check)`.
"""
