"""Proofs before the first step: what is trained, in which precision, from which tokens."""
