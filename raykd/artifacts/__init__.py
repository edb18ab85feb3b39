"""What is made once and used by many runs: banks, class statistics, teacher logits, synthetic sets."""
