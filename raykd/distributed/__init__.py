"""Who we are among the workers, gradients averaged over them, and the machine below."""
