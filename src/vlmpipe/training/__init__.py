"""Fine-tuning: curriculum, collator, adapter, the proofs before it starts, the phases."""
