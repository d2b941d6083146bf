"""The parity ladder: is the model that is handed on still the model that was given?"""
