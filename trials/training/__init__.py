"""One trial: train, evaluate, keep the best adapter."""
