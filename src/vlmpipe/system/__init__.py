"""The machine: what is on it, outside programs, the shared cache, the llama.cpp toolchain."""
