"""The worst micro-batch of each phase, tried before the run; where it does not fit, what would."""
