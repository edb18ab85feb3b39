"""What people read of finished runs."""
