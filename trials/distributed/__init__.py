"""One trial on several GPUs."""
